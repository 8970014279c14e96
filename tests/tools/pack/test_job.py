"""The whole of pack: within its budget, whole after any kill, and told truly by its report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import environment, program
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.safetensors_file import SafetensorsFile
from octuor.errors import CheckpointError, RequestError
from octuor.tools.pack.budget import Budget, bits_budget
from octuor.tools.pack.job import COMPARING, MEASURING, STEPS, WRITING, PackResult, pack
from octuor.weights import weight_shapes
from tools.pack.conftest import CONFIG, STARVING

Usage = namedtuple("Usage", "total used free")


class Killed(BaseException):
    """What stands for kill -9 inside this process: nobody catches it, and nothing of ours cleans up after it."""


def at_bits(bits: float) -> Callable[[Checkpoint], Budget]:
    return lambda checkpoint: bits_budget(checkpoint.config, bits)


def kill_at(step: str, n: int) -> Callable[[str, int, int], None]:
    """An on_step that ends the process, as it were, at the nth call of that step."""
    calls: list[str] = []

    def on_step(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        calls.append(what)
        if calls.count(step) == n:
            raise Killed

    return on_step


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> PackResult:
    """A pack that nobody interrupted."""
    seen: list[str] = []
    out = tmp_path_factory.mktemp("whole") / "x.octuor"
    with pytest.MonkeyPatch.context() as patch:
        from octuor.tools.pack import text

        patch.setattr(text, "RANDOM_PASSAGES", 8)
        patch.setattr(text, "RANDOM_LENGTH", 24)
        result = pack(model, out, at_bits(4.0), threads=2, on_step=lambda what, *_: seen.append(what))
    assert sorted(set(seen), key=seen.index) == list(STEPS)
    return result


def test_the_budget_is_kept_and_nothing_is_left(whole: PackResult) -> None:
    names = {path.name for path in whole.path.parent.iterdir()}
    assert names == {"x.octuor", "x.octuor.report.json", "x.octuor.report.html"}
    checkpoint = open_checkpoint(whole.path)
    assert checkpoint.config == CONFIG
    matrices = [checkpoint.get(name) for name, shape in weight_shapes(CONFIG) if len(shape) == 2]
    tiled = [weight for weight in matrices if not weight.name.endswith("router")]
    assert 8 * sum(weight.nbytes for weight in tiled) / sum(w.shape[0] * w.shape[1] for w in tiled) <= 4.0
    assert all(weight.format.name == "f32" for weight in matrices if weight.name.endswith("router"))
    assert all(weight.format.name in ("q4", "q5", "q6", "q8") for weight in matrices if ".w" in weight.name)
    assert whole.path.stat().st_size == whole.n_bytes


def test_the_report_tells_of_the_pack(whole: PackResult) -> None:
    found = json.loads(whole.report_files[0].read_text())
    checkpoint = open_checkpoint(whole.path)
    assert found["weight_bytes"] == checkpoint.n_bytes
    assert found["bits"] == pytest.approx(whole.report.bits)
    for n in range(CONFIG.n_layers):
        for e in range(CONFIG.n_experts):
            names = [f"layers.{n}.experts.{e}.{part}" for part in ("gate", "up", "down")]
            weights = [checkpoint.get(name) for name in names]
            assert found["expert_formats"][n][e] == [weight.format.name for weight in weights]
            assert found["expert_bits"][n][e] == pytest.approx(sum(weight.bits for weight in weights) / 3)
    assert found["starved"] == [list(STARVING)]
    measured = found["measured"]
    assert measured["n_tokens"] == 2 * 23  # two passages of 24 tokens; nothing follows the last
    assert 0 < measured["divergence"] < 1
    assert 0.5 < measured["agreement"] <= 1
    assert measured["perplexity"] == pytest.approx(measured["source_perplexity"], rel=0.5)
    total = sum(found["layer_loss"]) + sum(row["loss"] for row in found["parts"] if row["part"] in ("embed", "lm_head"))
    assert total == pytest.approx(found["expected_loss"])
    assert sum(row["loss"] for row in found["parts"]) == pytest.approx(found["expected_loss"])
    assert found["gap"] == 0.0
    metadata = json.loads(SafetensorsFile(whole.path).metadata["report"])
    assert metadata["measured"] == measured
    assert metadata["parts"] == found["parts"]
    page = whole.report_files[1].read_text()
    assert page.count("<title>layer ") == CONFIG.n_layers * CONFIG.n_experts
    assert "1.2" in page  # the starved expert
    assert "http" not in page.replace("http-equiv", "")  # it needs nothing else


@pytest.mark.parametrize(
    ("step", "n", "line"),
    [
        (MEASURING, 1, "going on with measuring at layer 1"),
        (MEASURING, 2, "going on with measuring at layer 2"),
        (WRITING, 2, "going on with writing after 0 parts"),
        (WRITING, 12, "going on with writing after 1 parts"),
        (COMPARING, 1, "going on with writing after 3 parts"),
    ],
)
def test_killed_and_resumed_to_the_same_bytes(
    model: Path, whole: PackResult, tmp_path: Path, step: str, n: int, line: str
) -> None:
    out = tmp_path / "x.octuor"
    notes: list[str] = []
    with pytest.raises(Killed):
        pack(model, out, at_bits(4.0), threads=2, on_step=kill_at(step, n))
    assert not out.exists()
    result = pack(model, out, at_bits(4.0), threads=2, on_note=notes.append)
    assert notes[-1] == line
    assert out.read_bytes() == whole.path.read_bytes()
    assert result.report == whole.report
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in whole.path.parent.iterdir())


def test_another_budget_keeps_the_measurements(model: Path, whole: PackResult, tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"
    notes: list[str] = []
    seen: list[tuple[object, ...]] = []
    with pytest.raises(Killed):
        pack(model, out, at_bits(5.0), threads=2, on_step=kill_at(WRITING, 4))
    pack(
        model, out, at_bits(4.0), threads=2,
        on_note=notes.append, on_step=lambda *step: seen.append(step),
    )  # fmt: skip
    assert notes == ["going on with measuring at layer 2", "planned with another formats before: this step starts anew"]
    assert {step[0] for step in seen} == set(STEPS)
    assert out.read_bytes() == whole.path.read_bytes()


def test_another_source_starts_anew(model: Path, whole: PackResult, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy.octuor", tmp_path / "x.octuor"
    notes: list[str] = []
    shutil.copy(model, copy)
    with pytest.raises(Killed):
        pack(copy, out, at_bits(4.0), threads=2, on_step=kill_at(MEASURING, 2))
    os.utime(copy, ns=(0, 0))
    pack(copy, out, at_bits(4.0), threads=2, on_note=notes.append)
    assert notes == ["measured with another source before: this step starts anew"]
    assert out.read_bytes() == whole.path.read_bytes()


def test_a_budget_that_cannot_be_met_writes_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="bits: expected at least"):
        pack(model, tmp_path / "x.octuor", at_bits(1.0))
    assert not list(tmp_path.iterdir())


def test_an_existing_pack_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.octuor").write_bytes(b"old")
    with pytest.raises(CheckpointError, match="expected a new file"):
        pack(model, tmp_path / "x.octuor", at_bits(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["x.octuor"]


def test_a_disk_without_room_is_said_before_writing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 93, 7))
    with pytest.raises(CheckpointError, match="bytes free on its disk, found 7"):
        pack(model, tmp_path / "x.octuor", at_bits(4.0), threads=2)
    assert not (tmp_path / "x.octuor").exists()


def test_two_at_once_are_told_apart(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"

    def second(*_: object) -> None:
        pack(model, out, at_bits(4.0), threads=2)

    with pytest.raises(CheckpointError, match="another process is writing this pack"):
        pack(model, out, at_bits(4.0), threads=2, on_step=second)


def test_a_process_that_is_killed(model: Path, tmp_path: Path) -> None:
    """kill -9 of the real command in the middle of its work, and the command again."""
    out = tmp_path / "x.octuor"
    command = program("pack", model, out, "--bits", "4.0", "--threads", "1")
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        layer = tmp_path / "x.octuor.journal" / "layer-0.npz"
        while process.poll() is None and not layer.exists():
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "going on with measuring" in done.stderr
    assert open_checkpoint(out).config == CONFIG
