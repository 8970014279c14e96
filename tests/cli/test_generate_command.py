"""octuor generate: text or ids in, text, ids or JSON out, and what it says of its speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import octuor
from octuor.ops import native
from tiny_models import EOS, SCRIPTED, random_checkpoint, scripted_checkpoint, write_model
from tokenizer_file import mixtral_tokenizer

SCRIPT = mixtral_tokenizer().encode("Hi there.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hi.octuor goes on with " Hi there."; ids.octuor has no tokenizer; random.octuor says anything."""
    folder = tmp_path_factory.mktemp("generate")
    write_model(scripted_checkpoint(SCRIPT), folder / "hi.octuor")
    write_model(scripted_checkpoint([700, 701], tokenizer=False), folder / "ids.octuor")
    write_model(random_checkpoint(), folder / "random.octuor")
    return folder


def test_text_goes_on(folder: Path) -> None:
    expected = (0, " Hi there.\n", "")
    assert octuor("generate", folder / "hi.octuor", "--prompt", "Hello", "--temperature", 0) == expected
    assert octuor("generate", folder / "hi.octuor", "--temperature", 0, stdin="Hello\n") == expected


@pytest.mark.parametrize("ids", ["1 15359 700", "1,15359,700", " 1, 15359  700 "])
def test_ids_go_on(folder: Path, ids: str) -> None:
    done = octuor("generate", folder / "hi.octuor", "--ids", ids, "--temperature", 0)
    assert done == (0, " Hi there.\n", "")


def test_a_model_without_a_tokenizer_prints_ids(folder: Path) -> None:
    ended = octuor("generate", folder / "ids.octuor", "--ids", "1", "--temperature", 0, "--max-tokens", 5)
    # no tokenizer, no EOS: the script's end repeats until max_tokens
    assert ended == (0, f"700 701 {EOS} {EOS} {EOS} \n", "")
    done = octuor("generate", folder / "ids.octuor", "--prompt", "Hello")
    assert done.code == 1
    assert "has no tokenizer" in done.err


def test_json(folder: Path) -> None:
    done = octuor("generate", folder / "hi.octuor", "--prompt", "Hello", "--temperature", 0, "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert report["text"] == " Hi there."
    assert report["ids"] == [*SCRIPT, EOS]
    assert report["finish_reason"] == "stop"
    assert all(-1e-6 < logprob <= 0 for logprob in report["logprobs"])  # the script leaves no doubt
    assert report["usage"] == {"prompt_tokens": 2, "completion_tokens": 4}
    assert set(report["speed"]) == {"first_token_s", "prompt_tokens_per_s", "tokens_per_s", "gb_per_s"}
    assert all(value > 0 for value in report["speed"].values())


def test_json_of_no_tokens(folder: Path) -> None:
    done = octuor("generate", folder / "hi.octuor", "--prompt", "Hello", "--max-tokens", 0, "--json")
    report = json.loads(done.out)
    assert (report["text"], report["ids"], report["finish_reason"]) == ("", [], "length")
    assert report["usage"] == {"prompt_tokens": 2, "completion_tokens": 0}


def test_stats_compare_with_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def measured(threads: int | None) -> float:
        asked.append(threads)
        return 20.0

    monkeypatch.setattr(native, "read_bandwidth_gb_s", measured)
    done = octuor(
        "generate", folder / "hi.octuor", "--ids", "1 5", "--temperature", 0, "--threads", 1, "--stats", "--json"
    )
    speed = json.loads(done.out)["speed"]
    assert asked == [1]
    assert speed["read_gb_per_s"] == 20.0
    assert speed["share_of_bandwidth"] == pytest.approx(speed["gb_per_s"] / 20.0)
    config = SCRIPTED
    assert speed["gb_per_s"] == pytest.approx(speed["tokens_per_s"] * 4 * (config.n_params - 32000 * 32) / 1e9)
    assert done.err.startswith("prompt ")
    assert "of the 20.0 GB/s that reading memory reaches\n" in done.err
    assert done.err.count("\n") == 1


def test_stop_and_seed(folder: Path) -> None:
    done = octuor(
        "generate", folder / "hi.octuor", "--ids", "1", "--temperature", 0, "--stop", "nothing", "--stop", "re."
    )
    assert done == (0, " Hi the\n", "")
    one, same, other = (
        octuor("generate", folder / "random.octuor", "--prompt", "Hello", "--seed", seed, "--max-tokens", 12).out
        for seed in (5, 5, 6)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--ids", "1 two"], "--ids: expected whole numbers, found '1 two'"),
        (["--ids", ""], "expected at least one token, found none"),
        (["--ids", "1 32000"], "expected 0 to 31999, found 32000 at place 1"),
        (["--ids", "1", "--prompt", "Hello"], "expected --prompt or --ids, found both"),
        (["--ids", "1 2 3", "--context", "3"], "fewer tokens than the context of 3"),
        (["--ids", "1", "--context", "5000"], "expected 1 to the 4096 tokens"),
        (["--ids", "1", "--temperature", "-1"], "temperature: expected a number of at least 0"),
        (["--ids", "1", "--top-p", "2"], "top_p: expected a number from 0 to 1"),
        (["--ids", "1", "--max-tokens", "-1"], "max_tokens: expected a whole number of at least 0"),
        (["--ids", "1", "--stop", ""], "stop: expected a tuple of non-empty strings"),
    ],
)
def test_errors_are_one_line(folder: Path, args: list[str], says: str) -> None:
    done = octuor("generate", folder / "hi.octuor", *args)
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert done.err.count("\n") == 1


def test_bytes_that_are_no_text(folder: Path) -> None:
    done = octuor("generate", folder / "hi.octuor", stdin=b"a\xff")
    assert (done.code, done.out) == (1, "")
    assert "lone surrogate" in done.err


def test_a_limit_of_memory_changes_nothing_but_the_figures() -> None:
    options = ("--prompt", "Once upon a time", "--max-tokens", "8", "--temperature", "0", "--context", "256")
    limited = octuor("generate", "--memory", "4GB", "--stats", *options)
    assert limited.out == octuor("generate", *options).out
    assert "experts: " in limited.err
    assert "reading memory" not in limited.err


def test_a_limit_that_is_too_small_is_said() -> None:
    done = octuor("generate", "--memory", "1MB", "--prompt", "x")
    assert done.code == 1
    assert "memory: expected at least" in done.err
