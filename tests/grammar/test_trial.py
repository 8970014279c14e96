"""Grammars that take too much are found out by a process that may die of them; everything goes on after it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from octuor.errors import BackendError, GrammarError
from octuor.grammar import GrammarCompiler
from octuor.grammar.trial import Trial, TrialLimits, Vocabulary
from octuor.grammar.trial import _end as end_child
from tokenizer_file import mixtral_tokenizer

STRING = {"type": "string"}
WITHIN_S = (
    20.0  # of waiting, on a machine that does other things too; less than a second of processor time is what they have
)
WITHIN_BYTES = 200 << 20


def chain(n: int) -> dict[str, Any]:
    """Definitions that each need the next one: the compiler recurses as deep as they go."""
    definitions: dict[str, Any] = {f"d{n}": STRING}
    for index in range(n):
        definitions[f"d{index}"] = {"type": "object", "properties": {"x": {"$ref": f"#/$defs/d{index + 1}"}}}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


EXPLOSIONS: dict[str, Any] = {
    "time of numbers": {"type": "integer", "multipleOf": 999_983},
    "time of expressions": {"allOf": [{**STRING, "pattern": f"a.{{{n}}}b"} for n in range(1, 30)]},
    "time of names": {"type": "object", "properties": {f"p{n}": STRING for n in range(4000)}},
    "stack": chain(3000),
    "products": {"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in range(12)]} for a in range(12)]},
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[GrammarCompiler]:
    """A compiler that gives a grammar less time, so that these tests take less."""
    found = GrammarCompiler(mixtral_tokenizer(), 32_000, limits=TrialLimits(cpu_s=0.2))
    yield found
    found.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("name", EXPLOSIONS)
def test_a_schema_that_explodes_is_refused_in_time(impatient: GrammarCompiler, name: str) -> None:
    before, started = resident_bytes(), time.monotonic()
    with pytest.raises(GrammarError, match=r"^field: expected"):
        impatient.json_schema(EXPLOSIONS[name], field="field")
    assert time.monotonic() - started < WITHIN_S
    assert resident_bytes() - before < WITHIN_BYTES
    assert impatient.json_schema({"const": name}).matcher().mask().any()


@pytest.mark.parametrize("pattern", [r"(\w{1,300}\s?){1,300}x", "(a?){2000}b", "(" * 2000 + "a" + ")" * 2000])
def test_an_expression_that_explodes_harms_its_own_answer_at_most(compiler: GrammarCompiler, pattern: str) -> None:
    started = time.monotonic()
    with suppress(GrammarError):
        matcher = compiler.regex(pattern).matcher()
        for _ in range(50):
            matcher.advance(int(matcher.mask().nonzero()[0][-1]))
    assert time.monotonic() - started < WITHIN_S
    assert compiler.json_object().matcher().mask().any()


# ---- the child itself ----------------------------------------------------------------------------

LETTERS = Vocabulary((b"", b"", b"", *(bytes([byte]) for byte in range(256))), (0, 1, 2), 1, 2)
OBJECT = "start: json\njson: %json {}"


@pytest.fixture
def trial() -> Iterator[Trial]:
    """A child with a small vocabulary and little time and memory."""
    found = Trial(LETTERS, TrialLimits(cpu_s=0.3, memory_bytes=64 << 20))
    yield found
    found.close()


def test_good_grammars_have_no_fault_and_bad_ones_are_explained(trial: Trial) -> None:
    assert trial.fault_of(OBJECT) == ""
    assert "nowhere" in (trial.fault_of("start: nowhere") or "")
    assert trial.fault_of(OBJECT) == ""


def test_a_fault_in_the_middle_of_an_answer_is_found(trial: Trial) -> None:
    """Two characters are possible, then none."""
    fault = trial.fault_of('start: "ab" X\nX: /c/ & /d/')
    assert fault


@pytest.mark.parametrize(
    "grammar",
    [
        'start: json\njson: %json {"type": "integer", "multipleOf": 999983}',
        f"start: /{'|'.join(f'.*{n}.*' for n in range(100_000))}/",
    ],
)
def test_the_child_starts_again_after_it_died(trial: Trial, grammar: str) -> None:
    assert trial.fault_of(grammar) is None
    assert trial.fault_of(OBJECT) == ""


def test_a_child_that_was_killed_is_replaced(trial: Trial) -> None:
    assert trial.fault_of(OBJECT) == ""
    assert trial._child is not None
    trial._child.kill()
    trial._child.wait()
    assert trial.fault_of(OBJECT) == ""


def test_a_child_that_ended_by_itself_is_no_fault_of_the_grammar(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so when grammars have left too little memory behind, maybe a moment before it is asked again."""
    ended = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    ended.wait(timeout=60)
    monkeypatch.setattr(ended, "poll", lambda: None)
    monkeypatch.setattr(trial, "_child", ended)
    monkeypatch.setattr(trial, "_end", lambda: end_child(ended))
    assert trial.fault_of(OBJECT) == ""
    assert trial._child is not ended


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BackendError, match="process"):
        Trial(LETTERS, TrialLimits()).fault_of(OBJECT)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(BackendError, match="process"):
        Trial(LETTERS, TrialLimits()).fault_of(OBJECT)


def test_the_child_ends_with_its_owner() -> None:
    trial = Trial(LETTERS, TrialLimits())
    assert trial.fault_of(OBJECT) == ""
    child = trial._child
    assert child is not None
    del trial
    assert child.returncode is not None


def test_the_whole_vocabulary_goes_through() -> None:
    """More than a pipe holds, with pieces that are not UTF-8."""
    tokenizer = mixtral_tokenizer()
    pieces = tuple(tokenizer.piece_bytes(token_id) for token_id in range(tokenizer.n_words))
    trial = Trial(Vocabulary(pieces, (0, 1, 2), 1, 2), TrialLimits())
    assert trial.fault_of(OBJECT) == ""
    trial.close()
