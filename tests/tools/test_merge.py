"""A merged adapter is the sum of the numbers, in any storage, whole or in blocks, in memory and converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoint.test_peft import EACH, pairs_of, write
from command_line import octuor
from foreign import blocks, gptq
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.peft import peft_tensors, read_adapter
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ShapeError
from octuor.ops.native import NativeOps
from octuor.quant import F32, find_format
from octuor.quant.changed import A, B, Changed
from octuor.tools.convert import convert
from octuor.tools.merge import merge
from octuor.weights import Weight
from tiny_models import write_model
from toys import leaves, random_values

CONFIG = ModelConfig(
    dim=64, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=32, hidden_dim=96, vocab_size=50, n_experts=2,
    n_experts_per_token=2,
)  # fmt: skip
RNG = np.random.default_rng(4)
PAIR = RNG.standard_normal((3, 256)).astype(np.float32), RNG.standard_normal((128, 3)).astype(np.float32)
STORED = {
    "f32": Weight(X := RNG.standard_normal((128, 256)).astype(np.float32), X.shape, F32),
    "q4": Weight(NativeOps(threads=1).quantize(X, find_format("q4")), X.shape, find_format("q4")),
    "gguf q4_k": blocks("gguf-q4_k", 128, 256),
    "gptq": gptq(4, 128, 256),
}


def changed(weight: Weight) -> Weight:
    parts = {**weight.parts, A: PAIR[0], B: PAIR[1]}
    return Weight(weight.data, weight.shape, Changed(weight.format, 0.5), "w", parts)


@pytest.mark.parametrize("name", STORED)
def test_a_changed_matrix_is_a_sum(name: str) -> None:
    base, weight = STORED[name], changed(STORED[name])
    expected = base.to_f32() + 0.5 * PAIR[1] @ PAIR[0]
    np.testing.assert_allclose(weight.to_f32(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weight.rows(64, 128).to_f32(), expected[64:], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(NativeOps(threads=1).dequantize(weight), weight.to_f32())
    assert weight.nbytes == base.nbytes + 4 * (PAIR[0].size + PAIR[1].size)


def test_a_change_of_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"w: f32 and a change .* found a \[3, 256\] and b \[128, 2\]"):
        Weight(X, X.shape, Changed(F32, 1), "w", {A: PAIR[0], B: PAIR[1][:, :2]})
    with pytest.raises(ShapeError, match="expected float32"):
        Weight(X[1:], X.shape, Changed(F32, 1), "w", {A: PAIR[0], B: PAIR[1]})


@pytest.fixture
def base() -> Checkpoint:
    weights = leaves(random_values(CONFIG, [1]))
    return Checkpoint(CONFIG, Path("random"), "test", weights.__getitem__)


def test_what_is_not_changed_stays_itself(base: Checkpoint, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", peft_tensors(CONFIG, pairs_of(CONFIG, ("attention",))))
    merged = merge(base, folder)
    assert merged.get("layers.0.experts.0.up") is base.get("layers.0.experts.0.up")
    assert "merged into 4 weights" in merged.notes[-1]


def test_the_command_writes_the_sum(base: Checkpoint, tmp_path: Path) -> None:
    """Merged, then quantized, as quantizing the sums does it: to the last bit."""
    folder = write(tmp_path / "a", peft_tensors(CONFIG, pairs_of(CONFIG, EACH)))
    source = write_model(base, tmp_path / "base.octuor")
    out = tmp_path / "merged.octuor"
    done = octuor("convert", source, out, "--merge", folder, "--format", "q8", "--threads", 1)
    assert (done.code, done.err) == (0, "")
    changes = read_adapter(folder, CONFIG).changes
    values = {name: base.get(name).to_f32() for name in base.names}
    sums = {
        name: x if name not in changes else changes[name].rows(0, len(x)) + x for name, x in values.items()
    }  # fmt: skip
    expected = Checkpoint(CONFIG, Path("sums"), "test", leaves(sums).__getitem__)
    expected = open_checkpoint(convert(expected, tmp_path / "sums.octuor", "q8").path)
    found = open_checkpoint(out)
    for name in found.names:
        np.testing.assert_array_equal(found.get(name).data, expected.get(name).data, err_msg=name)


def test_an_adapter_that_is_not_there(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an adapter's folder, found none"):
        merge(base, tmp_path / "none")
