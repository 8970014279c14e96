"""Bodies that almost ask for something: what clients send, with parts of it made wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CHOICE = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "max_tokens": 4, "min_tokens": 1, "seed": 7,
    "random_seed": 7, "stop": ["never"], "n": 1, "presence_penalty": 0.1, "frequency_penalty": 0.1,
    "repetition_penalty": 1.1, "logit_bias": {"5": 1.5}, "ignore_eos": False, "stream": True,
    "stream_options": {"include_usage": True}, "user": "me",
}  # fmt: skip
GENERATE: dict[str, Any] = {
    "inputs": "<s>[INST] Hello [/INST]",
    "parameters": {
        "do_sample": True, "max_new_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "typical_p": 0.9,
        "repetition_penalty": 1.1, "frequency_penalty": 0.1, "seed": 7, "stop": ["never"], "truncate": 50,
        "return_full_text": False, "details": True, "decoder_input_details": False, "best_of": 1, "top_n_tokens": 2,
        "grammar": {"type": "json", "value": CITY}, "watermark": False, "adapter_id": None,
    },
    "stream": False,
}  # fmt: skip

# For each route that takes a body, one that uses all it knows; parts that exclude each other are dropped at random.
WHOLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "mistral-tiny",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "content": "{}", "tool_call_id": "a1b2c3d4e"},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi", "prefix": True},
        ],
        "max_completion_tokens": 4,
        "safe_prompt": True,
        "safe_mode": False,
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_logprobs": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        **CHOICE,
    },
    "/v1/completions": {
        "model": "mistral-tiny", "prompt": ["Once", "upon"], "echo": True, "logprobs": 2, "best_of": 1, "suffix": None,
        **CHOICE,
    },
    "/v1/fim/completions": {"model": "mistral-tiny", "prompt": "def f(", "suffix": "return 1", **CHOICE},
    "/v1/embeddings": {
        "model": "mistral-embed", "input": ["a cat", "a dog"], "encoding_format": "base64", "dimensions": 8,
        "output_dimension": 8, "output_dtype": "float",
    },
    "/v1/load_lora_adapter": {"lora_name": "legal", "lora_path": "legal", "model": "mistral-tiny"},
    "/v1/unload_lora_adapter": {"lora_name": "legal", "model": "mistral-tiny"},
    "/": GENERATE,
    "/generate": GENERATE,
    "/generate_stream": GENERATE,
    "/tokenize": {
        "inputs": "Hello", "prompt": "Hello", "content": "Hello", "messages": [{"role": "user", "content": "Hello"}],
        "tools": [TOOL], "model": "mistral-tiny", "add_special_tokens": True, "add_generation_prompt": True,
        "return_token_strs": True, "add_special": True, "parse_special": True, "with_pieces": True,
    },
    "/chat_tokenize": {"messages": [{"role": "user", "content": "Hello"}], "tools": [TOOL], "model": "mistral-tiny"},
    "/detokenize": {"tokens": [1, 733, 16289], "model": "mistral-tiny"},
}  # fmt: skip

# Without these there is nothing to answer, or more than a test has time for. /tokenize wants one of several.
NEEDED = {"model", "messages", "prompt", "input", "inputs", "parameters", "tokens", "max_tokens", "max_new_tokens"}

NUMBERS = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, 1e308, -0.0, 1e-320]),
    st.floats(),  # NaN and both infinities among them, which JSON has not
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),  # half of a surrogate pair, too
    st.sampled_from(
        ["", " ", "\x00", "\ud800", "\udfff\ud800", "\u2028", "</s>", "<s>", "[INST]", "é" * 300, "a" * 20_000, "none",
         "auto", "any", "json", "json_object", "json_schema", "regex", "(a|", "(a*)*b", "base64", "\\", "$ref", "🦑"]
    ),
)  # fmt: skip
DEEP: Any = "bottom"
for _ in range(200):
    DEEP = [DEEP]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    TEXTS,
    st.just(DEEP),
    st.just([0] * 3000),
    st.recursive(
        st.none() | NUMBERS | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [{}, True, False, CITY, {"type": "string"}, {"type": "integer", "minimum": 5, "maximum": 1}, {"enum": []},
         {"type": "string", "pattern": "(a*)*$"}, {"type": "string", "maxLength": 10**9}, {"$ref": "#"}, {"const": 1},
         {"type": "array", "minItems": 10**6, "items": {}}, {"$ref": "https://example.com/schema"}, {"type": "thing"},
         {"type": "number", "multipleOf": 0}, {"type": "object", "additionalProperties": {"$ref": "#/nowhere"}}]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(TEXTS, inner, max_size=3)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=3)}),
    ),
    max_leaves=5,
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each list and object inside a value, with each of its indices or keys."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in inner] + [place for _, part in inner for place in places(part)]


@st.composite
def asked(draw: st.DrawFn, path: str) -> Any:
    """A body for the route with some of its fields, and up to three things wrong with them."""
    body = copy.deepcopy(WHOLE[path])
    for fields in (body, body.get("parameters", {})):
        kept = draw(st.sets(st.sampled_from(sorted(fields)))) if fields else set()
        for name in [name for name in fields if name not in kept]:
            if path == "/tokenize" or name not in NEEDED:
                del fields[name]
    possible = places(body)
    for holder, key in draw(st.lists(st.sampled_from(possible), max_size=3)) if possible else ():
        change = draw(st.sampled_from(["replace", "replace", "replace", "drop", "wrap", "repeat", "rename"]))
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue  # dropped or renamed before
        if key in ("schema", "parameters", "value") and draw(st.booleans()):
            holder[key] = copy.deepcopy(draw(SCHEMAS))
        elif change == "replace":
            holder[key] = copy.deepcopy(draw(VALUES))
        elif change == "drop":
            del holder[key]
        elif change == "wrap":
            holder[key] = [holder[key]]
        elif change == "repeat":
            holder[key] = [holder[key]] * draw(st.sampled_from([2, 200]))
        elif isinstance(holder, dict):
            holder[draw(TEXTS)] = holder.pop(key)
    return draw(VALUES) if draw(st.integers(0, 19)) == 0 else body


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    """What is sent: such a body as JSON, now and then with bytes lost or changed."""
    text = json.dumps(draw(asked(path)), ensure_ascii=draw(st.booleans()))
    data = text.encode("utf-8", "surrogatepass")
    damage = draw(st.sampled_from(["none"] * 8 + ["cut", "byte", "twice"]))
    at = draw(st.integers(0, len(data)))
    if damage == "cut":
        return data[:at]
    if damage == "byte":
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data * 2 if damage == "twice" else data
