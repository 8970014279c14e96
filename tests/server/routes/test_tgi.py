"""TGI's routes over a real engine: what its clients read, with texts that are known beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from octuor import SamplingParams
from octuor.cache import PAGE_SIZE
from octuor.engine.engine import Engine, EngineSettings
from octuor.server.registry import Registry, Served
from server.http_client import Client, events_of, pocket
from server.scripted_server import scripted, served

HI, THERE, BANG, BLANK, NEWLINE, BOS, EOS = 15359, 736, 28808, 28705, 13, 1, 2
CRAB = [243, 162, 169, 148]  # 🦑, byte by byte
PROMPT = "<s>[INST] Hello [/INST]"
PROMPT_IDS = [1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793]


@pytest.fixture(scope="module")
def polite() -> Iterator[Client]:
    """Says " Hi there 🦑!" and ends."""
    with scripted([HI, THERE, BLANK, *CRAB, BANG]) as client:
        yield client


@pytest.fixture(scope="module")
def real() -> Iterator[Client]:
    with served(pocket(), cache_tokens=2048) as client:
        yield client


def body(inputs: str = PROMPT, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


def events(client: Client, path: str, wish: dict[str, Any]) -> list[Any]:
    return events_of(client.post(path, wish))


def test_generate_answers_with_an_object(polite: Client) -> None:
    answer = polite.post("/generate", body())
    assert answer.status_code == 200
    assert answer.json() == {"generated_text": " Hi there 🦑!"}


def test_the_bare_address_answers_with_a_list_and_the_prompt(polite: Client) -> None:
    assert polite.post("/", body()).json() == [{"generated_text": PROMPT + " Hi there 🦑!"}]
    assert polite.post("/", body(return_full_text=False)).json() == [{"generated_text": " Hi there 🦑!"}]
    assert polite.post("/generate", body(return_full_text=True)).json() == {"generated_text": PROMPT + " Hi there 🦑!"}


def test_details_of_a_greedy_answer(polite: Client) -> None:
    details = polite.post("/generate", body(details=True)).json()["details"]
    assert {name: details[name] for name in ("finish_reason", "generated_tokens", "seed", "prefill")} == {
        "finish_reason": "eos_token",
        "generated_tokens": 9,
        "seed": None,
        "prefill": [],
    }
    assert [token["id"] for token in details["tokens"]] == [HI, THERE, BLANK, *CRAB, BANG, EOS]
    assert [token["text"] for token in details["tokens"]] == [" Hi", " there", " ", "", "", "", "🦑", "!", "</s>"]
    assert [token["special"] for token in details["tokens"]] == [False] * 8 + [True]
    assert all(token["logprob"] <= 0 for token in details["tokens"])
    assert set(details) == {"finish_reason", "generated_tokens", "seed", "prefill", "tokens"}


def test_a_stream_has_an_event_for_each_token(polite: Client) -> None:
    for told in (
        events(polite, "/generate_stream", body(details=True, max_new_tokens=2)),
        events(polite, "/", {**body(details=True, max_new_tokens=2, return_full_text=False), "stream": True}),
    ):
        assert [event["index"] for event in told] == [1, 2]
        assert [event["token"]["text"] for event in told] == [" Hi", " there"]
        assert (told[0]["generated_text"], told[0]["details"]) == (None, None)
        assert told[1]["generated_text"] == " Hi there"
        assert told[1]["details"] == {
            "finish_reason": "length",
            "generated_tokens": 2,
            "seed": None,
            "input_length": len(PROMPT_IDS),
        }


def test_a_stream_without_details_and_with_the_prompt(polite: Client) -> None:
    *_, last = events(polite, "/generate_stream", body(return_full_text=True))
    assert (last["token"]["text"], last["token"]["special"]) == ("</s>", True)
    assert (last["generated_text"], last["details"]) == (PROMPT + " Hi there 🦑!", None)


def test_a_stream_tells_the_same_as_the_whole_answer(real: Client) -> None:
    wish = body("[INST] Write a line. [/INST]", max_new_tokens=30, details=True, top_n_tokens=3)
    whole = real.post("/generate", wish).json()
    told = events(real, "/generate_stream", wish)
    assert [event["token"] for event in told] == whole["details"]["tokens"]
    assert [event["top_tokens"] for event in told] == whole["details"]["top_tokens"]
    assert told[-1]["generated_text"] == whole["generated_text"]
    shown = [event["token"]["text"] for event in told if not event["token"]["special"]]
    assert "".join(shown) == whole["generated_text"]


def test_greedy_text_is_that_of_the_library(real: Client) -> None:
    for prompt in ("Once upon a time", " The"):
        expected = pocket().generate(prompt, SamplingParams(temperature=0, max_tokens=24))
        text = "".join(token.text for token in expected)
        assert real.post("/generate", body(prompt, max_new_tokens=24)).json()["generated_text"] == text


def test_a_stop_sequence_ends_the_text_and_stays_in_it(polite: Client) -> None:
    for stop, text, last in (
        ("there", " Hi there", " there"),
        ("the", " Hi the", " the"),
        ("🦑", " Hi there 🦑", "🦑"),
    ):
        answer = polite.post("/generate", body(stop=["xyz", stop, ""], details=True)).json()
        assert answer["generated_text"] == text
        assert answer["details"]["finish_reason"] == "stop_sequence"
        assert answer["details"]["tokens"][-1]["text"] == last
        told = events(polite, "/generate_stream", body(stop=[stop]))
        assert "".join(event["token"]["text"] for event in told) == text == told[-1]["generated_text"]


def test_the_beginning_of_a_stop_sequence_is_not_held_back(polite: Client) -> None:
    told = events(polite, "/generate_stream", body(stop=[" there is"]))
    assert [event["token"]["text"] for event in told[:3]] == [" Hi", " there", " "]


def test_a_character_that_never_becomes_whole_is_told_with_the_last_token(polite: Client) -> None:
    answer = polite.post("/generate", body(max_new_tokens=5, details=True)).json()
    assert answer["generated_text"] == " Hi there �"
    assert [token["text"] for token in answer["details"]["tokens"]][-3:] == [" ", "", "�"]


def test_prefill_tells_the_prompts_tokens(real: Client) -> None:
    wish = body(PROMPT, decoder_input_details=True, max_new_tokens=1)
    prefill = real.post("/generate", wish).json()["details"]["prefill"]
    assert [token["id"] for token in prefill] == PROMPT_IDS
    assert "".join(token["text"] for token in prefill) == PROMPT
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in prefill[1:])


def test_truncate_keeps_the_last_tokens(real: Client) -> None:
    wish = body(PROMPT, decoder_input_details=True, max_new_tokens=1, truncate=3)
    answer = real.post("/generate", wish)
    assert [token["id"] for token in answer.json()["details"]["prefill"]] == PROMPT_IDS[-3:]
    assert answer.headers["x-prompt-tokens"] == "3"
    longer = real.post("/generate", {**wish, "parameters": {**wish["parameters"], "truncate": 1000}})
    assert [token["id"] for token in longer.json()["details"]["prefill"]] == PROMPT_IDS


def test_truncate_of_a_book_reads_its_end_alone(real: Client) -> None:
    book = "".join(f"Chapter {n}. The little dog ran home. 🦑 " for n in range(20_000))
    wish = body(book, decoder_input_details=True, max_new_tokens=1, truncate=300)
    prefill = real.post("/generate", wish).json()["details"]["prefill"]
    assert [token["id"] for token in prefill] == pocket().tokenizer.encode(book)[-300:]


def test_sampling_says_its_seed_and_repeats_it(real: Client) -> None:
    first = real.post("/generate", body("The", do_sample=True, details=True, max_new_tokens=12)).json()
    seed = first["details"]["seed"]
    assert isinstance(seed, int)
    again = real.post("/generate", body("The", do_sample=True, details=True, max_new_tokens=12, seed=seed)).json()
    assert again == first
    *_, last = events(
        real, "/generate_stream", body("The", temperature=1.0, details=True, max_new_tokens=12, seed=seed)
    )
    assert (last["generated_text"], last["details"]["seed"]) == (first["generated_text"], seed)


@pytest.mark.parametrize("wish", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"typical_p": 0.9}, {"seed": 7}])
def test_what_asks_for_sampling(real: Client, wish: dict[str, Any]) -> None:
    details = real.post("/generate", body("The", details=True, max_new_tokens=2, **wish)).json()["details"]
    assert (details["seed"] is not None) == ("seed" not in wish)  # a seed alone draws nothing


def test_the_best_of_several(real: Client) -> None:
    wish = body("The", do_sample=True, best_of=3, details=True, max_new_tokens=6, top_n_tokens=2)
    details = real.post("/generate", wish).json()["details"]
    found = [details, *details["best_of_sequences"]]
    logprobs = [sum(token["logprob"] for token in sequence["tokens"]) for sequence in found]
    assert len(found) == 3
    assert logprobs == sorted(logprobs, reverse=True)
    assert sum(sequence["seed"] is not None for sequence in found) == 1  # the first choice alone can be drawn again
    assert all(len(sequence["top_tokens"]) == sequence["generated_tokens"] for sequence in found)
    plain = real.post("/generate", body("The", do_sample=True, best_of=2, max_new_tokens=6))
    assert set(plain.json()) == {"generated_text"}
    assert plain.headers["x-generated-tokens"] == "12"


def test_top_tokens_are_the_likeliest(real: Client) -> None:
    details = real.post("/generate", body("The", details=True, max_new_tokens=4, top_n_tokens=2)).json()["details"]
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert len(top) == 2
        assert top[0]["logprob"] >= top[1]["logprob"]
        assert (top[0]["id"], top[0]["logprob"]) == (token["id"], token["logprob"])  # greedy


def test_headers_tell_times_and_counts(polite: Client) -> None:
    answer = polite.post("/generate", body())
    assert answer.headers["x-compute-characters"] == str(len(PROMPT))
    assert (answer.headers["x-prompt-tokens"], answer.headers["x-generated-tokens"]) == ("9", "9")
    assert answer.headers["x-compute-type"] == "cpu"
    for name in ("total", "validation", "queue", "inference"):
        assert int(answer.headers[f"x-{name}-time"]) >= 0
    assert float(answer.headers["x-compute-time"]) > 0
    assert int(answer.headers["x-time-per-token"]) >= 0
    assert polite.post("/generate_stream", body()).headers["x-compute-characters"] == str(len(PROMPT))


def test_an_answer_has_100_tokens_by_default_or_what_the_context_leaves() -> None:
    with scripted([HI, THERE], then=HI) as endless:
        details = endless.post("/generate", body(details=True)).json()["details"]
        assert (details["generated_tokens"], details["finish_reason"]) == (100, "length")
        nearly_full = "the" + " the" * (4096 - 1 - 3 - 1)
        details = endless.post("/generate", body(nearly_full, details=True)).json()["details"]
        assert (details["generated_tokens"], details["finish_reason"]) == (3, "length")


def test_earlier_answers_in_a_prompt_are_not_computed_again() -> None:
    model = pocket()
    with Engine(model, EngineSettings(cache_tokens=2048)) as engine:
        client = Client()
        client.serving.registry = Registry([Served("pocket", model, engine)])
        asked = "<s>[INST] Tell me a long story about a cat and a dog. [/INST]"
        told = client.post("/generate", body(asked, max_new_tokens=150, details=True)).json()
        n_known = engine.stats().prefix_tokens_cached
        again = f"{asked}{told['generated_text']}</s> [INST] And then? [/INST]"
        assert client.post("/generate", body(again, max_new_tokens=1)).is_success
        n_asked = len(model.tokenizer.encode(asked))
        assert engine.stats().prefix_tokens_cached - n_known > n_asked + PAGE_SIZE


def test_lines_hold_no_separators_that_clients_cut_at() -> None:
    separator = [229, 131, 171]  # U+2028, byte by byte
    with scripted([HI, *separator, BANG]) as client:
        answer = client.post("/generate_stream", body())
        assert len(answer.text.splitlines()) == 2 * 6
        assert json.loads(answer.text.splitlines()[-2][len("data: ") :])["generated_text"] == " Hi\u2028!"


def test_control_tokens_inside_an_answer_are_no_text() -> None:
    with scripted([HI, BOS, THERE]) as client:
        answer = client.post("/generate", body(details=True)).json()
        assert answer["generated_text"] == " Hi there"
        told = [(token["text"], token["special"]) for token in answer["details"]["tokens"]]
        assert told == [(" Hi", False), ("<s>", True), (" there", False), ("</s>", True)]


def test_an_answer_matches_its_expression(real: Client) -> None:
    pattern = {"type": "regex", "value": "[A-Z][a-z]{2,9} (é|🦑)!"}
    for wish in (body("The", grammar=pattern), body("The", grammar=pattern, do_sample=True, seed=3)):
        text = real.post("/generate", wish).json()["generated_text"]
        assert re.fullmatch(pattern["value"], text)
        assert events(real, "/generate_stream", wish)[-1]["generated_text"] == text


SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}, "n": {"type": "integer"}}}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": {**SCHEMA, "required": ["city"]}},
        {"type": "json", "value": json.dumps({**SCHEMA, "required": ["city"]})},
        {"type": "json_object", "value": {**SCHEMA, "required": ["city"]}},
        {"type": "json_schema", "value": {"name": "place", "schema": {**SCHEMA, "required": ["city"]}}},
    ],
    ids=["object", "text", "alias", "named"],
)
def test_an_answer_matches_its_schema(real: Client, grammar: dict[str, Any]) -> None:
    answer = real.post("/generate", body("[INST] Where? [/INST]", grammar=grammar, details=True)).json()
    assert answer["details"]["finish_reason"] == "eos_token"
    assert json.loads(answer["generated_text"])["city"] in ("Paris", "Lyon")


def test_info(real: Client) -> None:
    found = real.get("/info").json()
    assert found["model_id"] == "scripted"
    assert (found["max_total_tokens"], found["max_input_tokens"]) == (1024, 1023)
    assert {
        *("model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of", "max_stop_sequences"),
        *("validation_workers", "max_client_batch_size", "router", "version", "sha", "docker_label"),
    } <= set(found)
