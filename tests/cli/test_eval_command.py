"""octuor eval and octuor compare from the command line, with a model of a few weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from command_line import octuor
from tiny_models import random_checkpoint, write_model

TEXT = "The dog ran home. It was late, and nobody was there to open the door for it.\n" * 3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(random_checkpoint(seed=0), tmp_path / "a.octuor")


def test_an_evaluation_is_printed_written_and_gone_on_with(model: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    command = ("eval", model, "--tasks", "perplexity", "--text", text, "--out", out, "--context", 64)
    done = octuor(*command)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("perplexity")
    assert done.out.endswith(f"report: {out / 'report.html'}\n")
    again = octuor(*command, "--json")
    first, second = json.loads((out / "result.json").read_text()), json.loads(again.out)
    assert first["tasks"][0]["documents"] == second["tasks"][0]["documents"]
    assert second["run"]["from_journal"] == second["run"]["scored"] == 1


def test_a_key_is_in_no_report(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    done = octuor("eval", model, "--text", text, "--judge-key", "sk-secret", "--json")
    assert "sk-secret" not in done.out
    assert "--judge-key ..." in json.loads(done.out)["run"]["command"]


def test_tasks_are_listed() -> None:
    done = octuor("eval", "--list")
    assert {line.split()[0] for line in done.out.splitlines()} >= {
        "perplexity",
        "mt_bench",
        "mmlu_local",
        "choice_local",
    }


def test_two_models_are_compared(model: Path, tmp_path: Path) -> None:
    other = write_model(random_checkpoint(seed=1), tmp_path / "b.octuor")
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT * 3)
    done = octuor("compare", model, other, "--text", text, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"report: {out / 'compare.html'}\n")
    found = json.loads(octuor("compare", out / "a", out / "b" / "result.json", "--json").out)
    assert [found[key]["name"] for key in ("first", "second")] == ["a.octuor", "b.octuor"]
    assert found["pairs"] == json.loads((out / "compare.json").read_text())["pairs"]


def test_wrong_requests_are_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = octuor("eval", model, "--tasks", "humaneval", "--data", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "expected humaneval.jsonl" in done.err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = octuor("eval", model, "--tasks", "hellaswag")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert 'pip install "octuor[eval]"' in done.err
