"""Plain curl, as the documentation of 2023 has it: the platform's chat and embeddings, and TGI's generate."""

import json
import os
import shlex
import subprocess
from typing import Any

URL, KEY = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily


def shell(command: str) -> str:
    """What the command prints; the address and the key are variables, as readers have them."""
    return subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True, timeout=60, env={**os.environ}
    ).stdout


def events(text: str) -> list[str]:
    """The data of each event of a stream."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chat(**more: Any) -> str:
    body = {"model": "mistral-tiny", "messages": [{"role": "user", "content": "Hello"}], **more}
    return f"""
      curl --silent --location "$OCTUOR_URL/v1/chat/completions" \
        --header 'Content-Type: application/json' \
        --header 'Accept: application/json' \
        --header "Authorization: Bearer $OCTUOR_KEY" \
        --data {shlex.quote(json.dumps(body))}
    """


def test_chat() -> None:
    answer = json.loads(
        shell(chat(temperature=0, top_p=1, max_tokens=512, stream=False, safe_mode=False, random_seed=None))
    )
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "tool_calls": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "mistral-tiny"
    assert answer["usage"]["prompt_tokens"] == 9


def test_chat_streamed() -> None:
    *chunks, end = events(shell(chat(temperature=0, stream=True)))
    assert end == "[DONE]"
    text = "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == ANSWER


def test_a_prefix_begins_the_answer() -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi! How", "prefix": True},
    ]
    answer = json.loads(shell(chat(messages=messages, temperature=0)))
    assert answer["choices"][0]["message"]["content"] == ANSWER


def test_embeddings() -> None:
    answer = json.loads(
        shell(
            """
            curl --silent --location "$OCTUOR_URL/v1/embeddings" \
              --header 'Content-Type: application/json' \
              --header 'Accept: application/json' \
              --header "Authorization: Bearer $OCTUOR_KEY" \
              --data '{"model": "mistral-embed", "input": ["Embed this sentence.", "As well as this one."]}'
            """
        )
    )
    assert answer["object"] == "list"
    assert answer["id"]
    assert [row["index"] for row in answer["data"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 0


def test_models() -> None:
    answer = json.loads(
        shell('curl --silent --location "$OCTUOR_URL/v1/models" --header "Authorization: Bearer $OCTUOR_KEY"')
    )
    assert "open-mixtral-8x7b" in {card["id"] for card in answer["data"]}


def generate(path: str) -> str:
    return f"""
      curl --silent "$OCTUOR_URL{path}" -X POST \
        -H 'Content-Type: application/json' -H "Authorization: Bearer $OCTUOR_KEY" \
        -d '{{"inputs": "[INST] Hello [/INST]", "parameters": {{"max_new_tokens": 20}}}}'
    """


def test_generate() -> None:
    assert json.loads(shell(generate("/generate"))) == {"generated_text": f" {ANSWER}"}
    # on this path TGI gives the prompt back too, where it is not told otherwise
    assert json.loads(shell(generate("/"))) == [{"generated_text": f"[INST] Hello [/INST] {ANSWER}"}]


def test_generate_stream() -> None:
    answer = [json.loads(event) for event in events(shell(generate("/generate_stream")))]
    assert answer[-1]["generated_text"] == f" {ANSWER}"
    assert answer[0]["details"] is None


def test_health_needs_no_key() -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert shell(f'curl --silent -o /dev/null -w "%{{http_code}}" "$OCTUOR_URL{path}"') == "200"


def test_metrics() -> None:
    text = shell('curl --silent "$OCTUOR_URL/metrics" --header "Authorization: Bearer $OCTUOR_KEY"')
    assert "_generation_tokens_total" in text


def test_no_key() -> None:
    answer = shell('curl --silent -w "\\n%{http_code}" "$OCTUOR_URL/v1/models"')
    body, status = answer.rsplit("\n", 1)
    assert status == "401"
    assert json.loads(body)["object"] == "error"


def test_truncated_json() -> None:
    command = """
      curl --silent -w "\\n%{http_code}" "$OCTUOR_URL/v1/chat/completions" \
        -H 'Content-Type: application/json' -H "Authorization: Bearer $OCTUOR_KEY" -d '{"model": "mistral-ti'
    """
    body, status = shell(command).rsplit("\n", 1)
    assert status == "400"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
