"""AWQ matrices packed bit by bit here, and those that gptqmodel packed."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.errors import ShapeError
from octuor.quant.awq import Awq
from octuor.weights import Weight
from packed import Stored, awq
from quant.recorded import recorded


def weight(stored: Stored, group_size: int) -> Weight:
    parts = dict(stored.tensors)
    return Weight(parts.pop("qweight"), stored.values.shape, Awq(group_size), "layers.0.wq", parts)


@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
@pytest.mark.parametrize(("shape", "group_size"), [((64, 96), 32), ((40, 72), 72), ((8, 40), 16)])
def test_numbers(shape: tuple[int, int], group_size: int, dtype: str) -> None:
    stored = awq(shape, group_size, dtype=dtype)
    np.testing.assert_array_equal(weight(stored, group_size).to_f32(), stored.values)


def test_rows_are_views() -> None:
    stored = awq((96, 64), 16)
    whole = weight(stored, 16)
    for start, stop in ((0, 96), (8, 16), (72, 96)):
        part = whole.rows(start, stop)
        np.testing.assert_array_equal(part.to_f32(), stored.values[start:stop])
        assert np.shares_memory(part.data, whole.data)


@pytest.mark.parametrize("sample", ["awq-4-odd"])
def test_what_gptqmodel_wrote(sample: str) -> None:
    parts, shape, settings, checksum = recorded(sample)
    data = parts.pop("qweight")
    assert checksum(Weight(data, shape, Awq(settings["group_size"]), sample, parts).to_f32())


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_other_arrays_are_refused(part: str) -> None:
    stored = awq((32, 64), 32)
    stored.tensors[part] = stored.tensors[part][1:]
    with pytest.raises(ShapeError, match=rf"layers.0.wq: awq-4 \[32, 64\]: {part}: expected .*, found"):
        weight(stored, 32)


def test_outputs_come_in_eights() -> None:
    stored = awq((32, 64), 32)
    stored.values = stored.values[:30]
    with pytest.raises(ShapeError, match="multiple of 8 outputs"):
        weight(stored, 32)
