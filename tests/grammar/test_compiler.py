"""Answers under a grammar always parse and validate, whatever chooses the tokens; masks are what the engine expects."""

from __future__ import annotations

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

import octuor
from grammar.cases import SCHEMAS
from grammar.sampling import Choose, EndlessError, at_random, check, draw
from grammar.schemas import schemas
from octuor.errors import BackendError, GrammarError, OverloadError
from octuor.grammar import TEXT, AnswerFormat, GrammarCompiler, read_answer, read_response_format, read_tools
from octuor.tokenizer import Tokenizer, encode_chat
from tokenizer_file import mixtral_tokenizer

TOKENIZER = mixtral_tokenizer()
N_SEEDS = 4
LIGHTS: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"enum": ["hall", "attic"]}, "level": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["room"],
}
TOOLS = [
    {"type": "function", "function": {"name": "set_lights", "description": "Lights.", "parameters": LIGHTS}},
    {"type": "function", "function": {"name": "now"}},
]


def pieces_of(mask: NDArray[np.bool_]) -> set[bytes]:
    return {TOKENIZER.piece_bytes(int(token_id)) for token_id in np.flatnonzero(mask)}


# ---- every answer validates ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_answers_validate(compiler: GrammarCompiler, name: str) -> None:
    grammar = compiler.json_schema(SCHEMAS[name])
    for seed in range(N_SEEDS):
        check(draw(grammar, TOKENIZER, at_random(TOKENIZER, seed)), SCHEMAS[name])


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas())
def test_answers_to_drawn_schemas_validate_or_are_refused(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    try:
        grammar = compiler.json_schema(schema)
    except GrammarError:
        return
    for seed in range(3):
        with suppress(EndlessError):  # recursion may be without an end
            check(draw(grammar, TOKENIZER, at_random(TOKENIZER, seed, n_free=15), n_most=200), schema)


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_any_object_is_an_object(compiler: GrammarCompiler, seed: int) -> None:
    text = draw(compiler.json_object(), TOKENIZER, at_random(TOKENIZER, seed))
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "pattern",
    [r"\d{3}-\d{2}", "(yes|no)", "[^/]{2}/[a-z]+", r"a\nb", "^anchored$", "é{2}😀", "[[x&&~~]{3}", r" ?\<b\> *"],
)
@pytest.mark.parametrize("is_chat", [True, False])
def test_expressions_match_the_whole_text(compiler: GrammarCompiler, pattern: str, is_chat: bool) -> None:
    grammar = compiler.regex(pattern, is_chat=is_chat)
    wanted = re.compile(re.sub(r"\\([<>])", r"\1", pattern.replace("[[x&&~~]", r"[\[x&~]")))
    for seed in range(N_SEEDS):
        data = drawn_bytes(grammar.matcher(), at_random(TOKENIZER, seed))
        text = (data.removeprefix(b" ") if is_chat else data).decode()
        assert wanted.fullmatch(text), text


def drawn_bytes(matcher: Any, choose: Choose) -> bytes:
    data = b""
    for n_drawn in range(500):
        token_id = choose(matcher.mask(), n_drawn)
        if token_id == TOKENIZER.eos_id:
            return data
        matcher.advance(token_id)
        data += TOKENIZER.piece_bytes(token_id)
    raise AssertionError(data)


@pytest.mark.parametrize("name", ["closed", "oneOf by reference", "tree", "date"])
def test_the_pocket_models_answers_validate(compiler: GrammarCompiler, name: str) -> None:
    """Its own choice under the mask for a while, then to the end."""
    model = octuor.load()
    ids = encode_chat(model.tokenizer, [{"role": "user", "content": "Tell me of a dog, as JSON."}])
    end = at_random(model.tokenizer, 0, n_free=0)
    drawn = list(ids)

    def choose(mask: NDArray[np.bool_], n_drawn: int) -> int:
        token_id = end(mask, n_drawn)
        if n_drawn < 16:
            token_id = int(np.argmax(np.where(mask, model.logits(drawn)[-1], -np.inf)))
        drawn.append(token_id)
        return token_id

    check(draw(compiler.json_schema(SCHEMAS[name]), model.tokenizer, choose), SCHEMAS[name])


# ---- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names", "n_calls"),
    [("required", {"set_lights", "now"}, range(1, 17)), ({"function": {"name": "now"}}, {"now"}, range(1, 17))],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_forced_calls_validate(
    compiler: GrammarCompiler, choice: Any, names: set[str], n_calls: range, parallel: bool
) -> None:
    use = read_tools(TOOLS, choice, parallel)
    grammar = compiler.compile(TEXT, use)
    assert grammar is not None
    for seed in range(N_SEEDS):
        text = draw(grammar, TOKENIZER, at_random(TOKENIZER, seed, n_free=60))
        content, calls = read_answer(text, use, seed=seed)
        assert content == ""
        assert len(calls) in (n_calls if parallel else [1])
        for call in calls:
            assert call.name in names
            check(call.arguments, LIGHTS if call.name == "set_lights" else {"type": "object", "maxProperties": 0})


def spell(compiler: GrammarCompiler, answer_format: AnswerFormat, tool_choice: str, text: str) -> str:
    """Whether an answer is allowed: "no", "yes", or "unfinished" where more must come."""
    grammar = compiler.compile(answer_format, read_tools(TOOLS, tool_choice))
    assert grammar is not None
    matcher = grammar.matcher()
    for token_id in TOKENIZER.encode(text):
        if not matcher.mask()[token_id]:
            return "no"
        matcher.advance(token_id)
    return "yes" if matcher.mask()[TOKENIZER.eos_id] else "unfinished"


CALL = '[TOOL_CALLS] [{"name": "now", "arguments": {}}]'


@pytest.mark.parametrize(
    ("form", "choice", "text", "expected"),
    [
        ("text", "auto", "Hello there", "yes"),
        ("text", "auto", "[link](address), [TOOL_CALL", "yes"),
        ("text", "auto", CALL, "yes"),
        ("text", "auto", f"I look.\n{CALL}", "yes"),
        ("text", "auto", CALL[:-1], "unfinished"),
        ("text", "auto", f"{CALL} and", "no"),
        ("text", "auto", CALL.replace("now", "then"), "no"),
        ("text", "auto", CALL.replace("{}", '{"a": 1}'), "no"),
        ("text", "required", "Hello", "no"),
        ("text", "required", CALL, "yes"),
        ("json_object", "auto", '{"a": 1}', "yes"),
        ("json_object", "auto", CALL, "yes"),
        ("json_object", "auto", f"I look. {CALL}", "no"),
        ("json_object", "required", '{"a": 1}', "no"),
    ],
)
def test_answers_with_tools(compiler: GrammarCompiler, form: str, choice: str, text: str, expected: str) -> None:
    assert spell(compiler, read_response_format({"type": form}), choice, text) == expected


def test_without_a_wish_there_is_no_grammar(compiler: GrammarCompiler) -> None:
    assert compiler.compile(TEXT) is None
    assert compiler.compile(TEXT, read_tools(TOOLS, "none")) is None


def test_tools_with_references_of_their_own(compiler: GrammarCompiler) -> None:
    """Each function's schema is a document by itself: the same name may mean something else in the next one."""
    parameters = [
        {"properties": {"x": {"$ref": "#/$defs/X"}}, "required": ["x"], "$defs": {"X": {"type": kind}}}
        for kind in ("boolean", "null")
    ]
    use = read_tools([{"name": f"f{n}", "parameters": schema} for n, schema in enumerate(parameters)], "any")
    grammar = compiler.compile(TEXT, use)
    assert grammar is not None
    seen = set()
    for seed in range(4 * N_SEEDS):
        for call in read_answer(draw(grammar, TOKENIZER, at_random(TOKENIZER, seed, n_free=60)), use)[1]:
            check(call.arguments, parameters[int(call.name[1])])
            seen.add(call.name)
    assert seen == {"f0", "f1"}


# ---- masks ---------------------------------------------------------------------------------------


def test_the_first_mask_has_the_natural_beginning(compiler: GrammarCompiler) -> None:
    """28751 is "{"; the first piece of an encoded "{" is "▁{", and no blank may follow."""
    matcher = compiler.json_object().matcher()
    first = matcher.mask()
    assert first[28751]
    assert first[TOKENIZER.encode("{")[0]]
    assert not first[TOKENIZER.eos_id]
    assert pieces_of(first) <= {b" ", b"{", b" {", b'{"', b' {"', b"{}", b" {}"}
    matcher.advance(28705)  # "▁" alone
    assert pieces_of(matcher.mask()) == {b"{", b'{"', b"{}"}
    assert pieces_of(compiler.json_object(is_chat=False).matcher().mask()) == {b"{", b'{"', b"{}"}


def test_no_free_blanks_inside(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert spelled(compiler, schema, '{"a": 1, "b":2,"c": 3}')
    for text in ('{ "a":1}', '{"a" :1}', '{"a":  1}', '{"a":1,  "b":1}', '{"a":1 }', '{"a":1}\n', '{\n"a":1}'):
        assert not spelled(compiler, schema, text), text


def spelled(compiler: GrammarCompiler, schema: dict[str, Any], text: str) -> bool:
    matcher = compiler.json_schema(schema).matcher()
    for token_id in TOKENIZER.encode(text):
        if not matcher.mask()[token_id]:
            return False
        matcher.advance(token_id)
    return bool(matcher.mask()[TOKENIZER.eos_id])


def test_a_name_cannot_be_spelled_a_second_way(compiler: GrammarCompiler) -> None:
    """An escaped letter would be another spelling of the same name, with a value of another type."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True}
    assert spelled(compiler, schema, '{"a": "x", "b": 1}')
    assert not spelled(compiler, schema, '{"\\u0061": 1}')


def test_masks_are_new_arrays_of_the_models_size() -> None:
    """Ids behind the tokenizer's and control ids stand for nothing; the byte piece of "{" is not how it is written."""
    compiler = GrammarCompiler(TOKENIZER, 32_100)
    matcher = compiler.regex("(?s:.*)").matcher()
    first, second = matcher.mask(), matcher.mask()
    compiler.close()
    assert first.shape == (32_100,)
    assert first.dtype == np.bool_
    assert first is not second
    assert not np.shares_memory(first, second)
    assert first[TOKENIZER.eos_id]
    assert not first[32_000:].any()
    assert not first[[0, TOKENIZER.bos_id]].any()
    assert not first[3 + ord("{")]
    assert first[3 + 0xC3]  # the first byte of a character without a piece
    assert first[:32_000].sum() > 31_000


def test_the_end_may_be_taken_twice(compiler: GrammarCompiler) -> None:
    matcher = compiler.json_schema({"const": 1}).matcher()
    matcher.advance(TOKENIZER.encode("1")[-1])
    for _ in range(2):
        assert np.flatnonzero(matcher.mask()).tolist() == [TOKENIZER.eos_id]
        matcher.advance(TOKENIZER.eos_id)


def test_an_id_that_is_not_allowed_is_refused(compiler: GrammarCompiler) -> None:
    matcher = compiler.json_object().matcher()
    with pytest.raises(GrammarError, match="after 0 tokens"):
        matcher.advance(TOKENIZER.encode("Hello")[0])


def test_matchers_of_one_grammar_do_not_disturb_each_other(compiler: GrammarCompiler) -> None:
    """Not in other threads either, nor when one of them has failed."""
    grammar = compiler.json_schema(SCHEMAS["tree"])
    alone = [draw(grammar, TOKENIZER, at_random(TOKENIZER, seed)) for seed in range(8)]
    barrier = threading.Barrier(8)

    def one(seed: int) -> str:
        barrier.wait(timeout=60)
        if seed % 2:
            with pytest.raises(GrammarError):
                grammar.matcher().advance(TOKENIZER.encode("Hello")[0])
        return draw(grammar, TOKENIZER, at_random(TOKENIZER, seed))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == alone


def test_an_answer_goes_on_where_what_is_shared_has_failed(compiler: GrammarCompiler) -> None:
    """Answers share a lexer, whose limits one of them may reach: the next one begins with a new lexer at its place."""
    grammar = compiler.json_schema({"const": "abc"})
    matcher = grammar.matcher()
    matcher.advance(TOKENIZER.encode('"')[-1])
    assert not matcher._matcher.consume_token(TOKENIZER.encode("Hello")[0])  # llguidance's matcher is dead now
    assert b"abc" in pieces_of(matcher.mask())
    assert compiler.json_schema({"const": "abc"}) is not grammar  # and later answers have a new one


def test_known_grammars_are_kept_until_there_is_no_room() -> None:
    compiler = GrammarCompiler(TOKENIZER, 32_000, cache_bytes=3 << 18)
    first = compiler.json_schema({"const": 1})
    assert compiler.json_schema({"const": 1}) is first
    compiler.json_schema({"const": 2})
    assert compiler.json_schema({"const": 1}) is first
    compiler.json_schema({"const": 3})  # the second was used longest ago
    assert compiler.json_schema({"const": 1}) is first
    compiler.json_schema({"const": 4})
    compiler.json_schema({"const": 5})
    assert compiler.json_schema({"const": 1}) is not first
    compiler.close()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, r"field: .*minimum \(3\) is greater than maximum \(2\)"),
        ({"pattern": "(?=a)", "type": "string"}, "field: .*look-around"),
        ({"pattern": "(", "type": "string"}, "field: .*unclosed group"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, "field: .*branches may hold together"),
        ({"type": "object", "properties": {f"p{n}": {} for n in range(2000)}}, "field: .*too many choices"),
    ],
)
def test_what_the_compiler_refuses_is_said_in_one_line(
    compiler: GrammarCompiler, schema: dict[str, Any], message: str
) -> None:
    for _ in range(2):  # the second time from the cache
        with pytest.raises(GrammarError, match=message) as error:
            compiler.json_schema(schema, field="field")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_the_tool_that_is_wrong_is_named(compiler: GrammarCompiler) -> None:
    tools = [*TOOLS, {"name": "bad", "parameters": {"properties": {"x": {"type": "string", "pattern": "("}}}}]
    with pytest.raises(GrammarError, match=r"tools\[2\].parameters: .*unclosed group"):
        compiler.compile(TEXT, read_tools(tools))


def test_all_schemas_together_have_a_limit(compiler: GrammarCompiler) -> None:
    parameters = {"properties": {"x": {"enum": ["y" * 1000 + str(n) for n in range(200)]}}}
    tools = [{"name": f"f{n}", "parameters": parameters} for n in range(4)]
    with pytest.raises(GrammarError, match=r"tools: .*together"):
        compiler.compile(TEXT, read_tools(tools))


def test_a_queue_of_new_grammars_ends(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octuor.grammar.compiler._WAIT_S", 0.01)
    known = compiler.json_object()
    with compiler._trial_lock:
        with pytest.raises(OverloadError, match=r"field: .*try again"):
            compiler.json_schema({"const": "new"}, field="field")
        assert compiler.json_object() is known


def test_llguidance_belongs_to_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(BackendError, match=r'pip install "octuor\[serve\]"'):
        GrammarCompiler(TOKENIZER, 32_000)


def test_two_tokenizers_agree(compiler: GrammarCompiler) -> None:
    """A tokenizer that is not SentencePiece's own gives the same masks."""
    from octuor.tokenizer import find_mistral_common_tokenizer
    from octuor.tokenizer.hf import HuggingFaceTokenizer
    from tokenizer_file import tokenizer_json

    other: Tokenizer = HuggingFaceTokenizer(tokenizer_json(find_mistral_common_tokenizer()))
    theirs = GrammarCompiler(other, 32_000)
    assert np.array_equal(theirs.json_object().matcher().mask(), compiler.json_object().matcher().mask())
    theirs.close()
