"""Float8 e4m3 and its scales, and what llm-compressor and transformers wrote."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.errors import ShapeError
from octuor.quant.fp8 import E4M3, Fp8
from octuor.weights import Weight
from packed import as_scales
from quant.recorded import recorded


def test_codes() -> None:
    """Open Compute Project, 8-bit floating point specification, table 2."""
    known = {0x00: 0.0, 0x01: 2.0**-9, 0x07: 0.875 * 2.0**-6, 0x08: 2.0**-6, 0x38: 1.0, 0x3C: 1.5, 0x7E: 448.0}
    for code, value in known.items():
        assert E4M3[code] == value
        assert E4M3[code | 0x80] == -value
    assert np.isnan(E4M3[[0x7F, 0xFF]]).all()
    assert np.isfinite(E4M3).sum() == 254
    assert np.signbit(E4M3[0x80])


@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
@pytest.mark.parametrize(
    ("rows", "inputs", "grid"), [(0, 0, (1, 1)), (1, 0, (48, 1)), (16, 32, (3, 2)), (32, 16, (2, 3))]
)
def test_numbers(rows: int, inputs: int, grid: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 127, (48, 40), np.uint8) | rng.integers(0, 2, (48, 40), np.uint8) << 7
    powers = 2.0 ** rng.integers(-9, -5, grid)  # exact in every dtype
    found = Weight(data, (48, 40), Fp8(rows, inputs), "layers.0.wq", {"scale": as_scales(powers, dtype)})
    spread = powers.repeat(rows or 48, 0)[:48].repeat(inputs or 40, 1)[:, :40]
    if dtype != "float16":  # whose subnormals would round
        np.testing.assert_array_equal(found.to_f32(), E4M3[data] * spread)
    start = 2 * found.format.row_multiple if rows == 16 else found.format.row_multiple
    np.testing.assert_array_equal(found.rows(start, 48).to_f32(), found.to_f32()[start:])


@pytest.mark.parametrize("sample", ["fp8", "fp8-block-odd", "fp8-small-blocks"])
def test_what_other_programs_wrote(sample: str) -> None:
    parts, shape, settings, checksum = recorded(sample)
    block = settings.get("weight_block_size", (0, 0))
    if sample == "fp8-block-odd":
        block = (128, 128)
    scale = parts["weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"]
    whole = {"scale": scale.reshape(1, 1) if scale.size == 1 else scale}
    assert checksum(Weight(parts["weight"], shape, Fp8(*block), sample, whole).to_f32())


def test_other_arrays_are_refused() -> None:
    data, scale = np.zeros((4, 8), np.uint8), np.ones((4, 1), np.float32)
    for wrong, parts in ((data.view(np.int8), {"scale": scale}), (data, {"scale": scale[1:]}), (data, {})):
        with pytest.raises(ShapeError, match=r"f8_e4m3 \[4, 8\]: .*expected"):
            Weight(wrong, (4, 8), Fp8(1, 0), "layers.0.wq", parts)
