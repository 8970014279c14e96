"""Plans: what is advised for which memory, what is measured, and what the command prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import octuor
from octuor.api import POCKET
from octuor.config import MIXTRAL_8X7B
from octuor.errors import CheckpointError, RequestError
from octuor.tools.convert import convert
from octuor.tools.plan import disk, rates
from octuor.tools.plan import plan as plan_module
from octuor.tools.plan.choices import Limits, format_choices, stored_choice
from octuor.tools.plan.disk import DiskSpeed, measure_disk
from octuor.tools.plan.plan import recommend
from octuor.tools.plan.rates import LayerRate, Rates, measure_rates
from octuor.tools.plan.subject import Stored, Subject, find_subject
from tiny_models import TINY, random_checkpoint

RATE = LayerRate(0.003, 0.0001, 0.001)
RATES = Rates(dict.fromkeys(("q4", "q3", "q2"), RATE), 50.0, DiskSpeed(10**12, 2.0))


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SAMPLE", 4 * disk.CHUNK)
    monkeypatch.setattr(rates, "PROBE_BYTES", 64 << 20)


def advice(gigabytes: float, stored: Stored | None = None) -> tuple[str, str | None]:
    subject = Subject("mixtral-8x7b" if stored is None else "my model", MIXTRAL_8X7B, stored)
    limits = Limits(int(gigabytes * 1e9), 4096)
    row = None if stored is None else stored_choice(MIXTRAL_8X7B, stored.formats, limits, RATES)
    return recommend(subject, limits, row, format_choices(MIXTRAL_8X7B, limits, RATES))


def test_a_geometry_is_packed_to_the_memory() -> None:
    text, command = advice(22)
    assert "q3 or more" in text
    assert command == "octuor pack YOUR-CHECKPOINT mixtral-8x7b.octuor --memory 20980MiB --context 4096"


def test_a_checkpoint_is_named_in_the_command() -> None:
    _, command = advice(22, Stored("Hugging Face", {"bf16": 93 * 10**9}, Path("my model")))
    assert command is not None
    assert command.startswith("octuor pack 'my model' 'my model.octuor' --memory")


def test_a_pack_that_fits_is_run() -> None:
    text, command = advice(30, Stored("octuor pack", {"q4": 25 * 10**9}, Path("my model")))
    assert "fits in memory as it is" in text
    assert command == "octuor chat 'my model' --context 4096 --memory 28610MiB"


def test_a_checkpoint_that_fits_is_run_too_and_a_faster_format_named() -> None:
    text, command = advice(30, Stored("GGUF", {"gguf-q4_k": 26 * 10**9}, Path("my model")))
    assert "as it is" in text
    assert command == "octuor chat 'my model' --context 4096 --memory 28610MiB"
    rates = Rates({"bf16": replace(RATE, answer_s=0.012), "q8": replace(RATE, answer_s=0.006)}, 50.0, None)
    limits = Limits(100 * 10**9, 4096)
    stored = stored_choice(MIXTRAL_8X7B, {"bf16": 93 * 10**9}, limits, rates)
    subject = Subject("my model", MIXTRAL_8X7B, Stored("Hugging Face", {"bf16": 93 * 10**9}, Path("my model")))
    text, _ = recommend(subject, limits, stored, format_choices(MIXTRAL_8X7B, limits, rates))
    assert "`octuor convert --format q8` would make it answer 2.0 times as fast" in text


def test_little_memory_streams_and_none_is_said() -> None:
    text, command = advice(8)
    assert "of the experts in memory" in text
    assert command is not None
    assert "octuor convert" in command
    text, command = advice(8, Stored("octuor pack", {"q2": 14 * 10**9}, Path("my model")))
    assert "stream its experts" in text
    assert command == "octuor chat 'my model' --context 4096 --memory 7629MiB"
    text, command = advice(0.5)
    assert "q2, the smallest, takes" in text
    assert command is None


# ---- subjects ------------------------------------------------------------------------------------


def test_subjects(tmp_path: Path) -> None:
    assert find_subject("mixtral-8x22b").config.n_layers == 56
    pack = convert(random_checkpoint(), tmp_path / "tiny.octuor", "q4").path
    subject = find_subject(pack)
    assert subject.stored is not None
    assert (subject.config, subject.is_pack, subject.stored.path) == (TINY, True, pack)
    assert set(subject.stored.formats) == {"q4", "q6", "f32"}
    with pytest.raises(CheckpointError, match=r"no such file .* or name a geometry: mixtral-8x7b, "):
        find_subject("mixtral-8x8b")


# ---- measuring -----------------------------------------------------------------------------------


def test_rates_are_of_this_machine(tmp_path: Path) -> None:
    steps: list[str] = []
    found = measure_rates(replace(TINY, sliding_window=None), ["f32"], tmp_path, lambda what, *_: steps.append(what))
    assert set(found.layers) == {"f32"}
    assert all(rate.answer_s >= 0 and rate.prompt_s > 0 and rate.head_s > 0 for rate in found.layers.values())
    assert found.read_gb_per_s > 0
    assert found.disk is not None
    assert steps == ["f32", "disk", "done"]


def test_a_disk_is_read_where_there_is_something_to_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a folder, found none"):
        measure_disk(tmp_path / "none")
    (tmp_path / "small").write_bytes(b"1")
    made = measure_disk(tmp_path)
    assert made.free_bytes > 0
    assert [file.name for file in tmp_path.iterdir()] == ["small"]  # the sample is gone
    (tmp_path / "large").write_bytes(bytes(disk.SAMPLE))
    found = measure_disk(tmp_path)
    assert (found.read_gb_per_s is None) == (made.read_gb_per_s is None)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MEASURED", ("q4", "q2"))  # each takes a moment
    done = octuor("plan", POCKET, "--memory", "1GiB", "--context", "512", "--disk", tmp_path, "--json")
    assert (done.code, done.err) == (0, "")
    plan = json.loads(done.out)
    assert plan["stored"]["how"] == "resident"
    assert plan["stored"]["memory"]["weights"] == plan["stored"]["disk_bytes"]
    assert [row["format"] for row in plan["choices"]] == ["f32", "f16", "bf16", "q8", "q6", "q5", "q4", "q3", "q2"]
    assert [row["format"] for row in plan["choices"] if row["answer_tokens_per_s"]] == ["q4", "q2"]
    assert plan["command"] == f"octuor chat {POCKET} --context 512 --memory 1024MiB"


def test_bad_input_is_one_line() -> None:
    for args in (["mixtral-8x7b", "--memory", "lots"], ["nothing"], ["mixtral-8x7b", "--context", "0"]):
        done = octuor("plan", *args)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
