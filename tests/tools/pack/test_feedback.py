"""Error feedback on a walk: Hessians as they should be, and a pack that resumes like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octuor.checkpoint import Checkpoint
from octuor.tools.pack import feedback as module
from octuor.tools.pack.budget import Budget, bits_budget
from octuor.tools.pack.feedback import Hessian
from octuor.tools.pack.job import WRITING, pack


def test_hessians_are_sums_of_products_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((50, 10)).astype(np.float32), rng.uniform(0, 1, 50).astype(np.float32)
    whole = Hessian(10)
    whole.add(x[:20], weights[:20])
    whole.add(x[20:], weights[20:])
    expected = (x * weights[:, None]).T @ x
    np.testing.assert_allclose(whole.blocks[0], expected, rtol=1e-4, atol=1e-5)
    shrunk = whole.shrunk()
    np.testing.assert_allclose(shrunk.diagonal(), expected.diagonal(), rtol=1e-4)
    np.testing.assert_allclose(shrunk[0, 1:], expected[0, 1:] * 50 / 60, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(module, "WINDOW", 4)
    cut = Hessian(10)
    cut.add(x, weights)
    assert cut.blocks.shape == (3, 4, 4)
    np.testing.assert_allclose(cut.blocks[1], expected[4:8, 4:8], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cut.blocks[2, :2, :2], expected[8:, 8:], rtol=1e-4, atol=1e-5)
    assert not cut.blocks[2, 2:].any()


def test_killed_and_resumed_to_the_same_bytes(model: Path, tmp_path: Path) -> None:
    def budget(checkpoint: Checkpoint) -> Budget:
        return bits_budget(checkpoint.config, 4.0)

    class Killed(BaseException):
        pass

    calls: list[str] = []

    def on_step(what: str, *_: int) -> None:
        calls.append(what)
        if calls.count(WRITING) == 2:  # the second layer is about to be written
            raise Killed

    notes: list[str] = []
    with pytest.raises(Killed):
        pack(model, tmp_path / "x.octuor", budget, quality="best", threads=2, on_step=on_step)
    pack(model, tmp_path / "x.octuor", budget, quality="best", threads=2, on_note=notes.append)
    assert notes[-1] == "going on with writing after 2 parts"
    whole = pack(model, tmp_path / "y.octuor", budget, quality="best", threads=2)
    normal = pack(model, tmp_path / "z.octuor", budget, threads=2)
    assert (tmp_path / "x.octuor").read_bytes() == (tmp_path / "y.octuor").read_bytes()
    assert (tmp_path / "x.octuor").read_bytes() != (tmp_path / "z.octuor").read_bytes()
    assert whole.report.measured.divergence < 1.5 * normal.report.measured.divergence  # noise has nothing to fit
