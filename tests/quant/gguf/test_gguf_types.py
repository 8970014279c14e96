"""Every ggml type against two programs: random bytes by the gguf package, blocks that llama.cpp wrote by its C code."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from octuor.errors import FormatError, ShapeError
from octuor.quant.gguf import TYPES, Blocks
from octuor.quant.gguf.base import AT_ONCE
from octuor.quant.gguf.i import book
from octuor.weights import Weight

GOLDEN = Path(__file__).parent / "golden.npz"
SHAPE = (2, 512)  # of the golden blocks
UNKNOWN_TO_THE_PACKAGE = {"gguf-q8_k", "gguf-q1_0", "gguf-q2_0"}
EACH = pytest.mark.parametrize("row", TYPES.values(), ids=lambda row: row.name)
BLOCKS = pytest.mark.parametrize(
    "row", [row for row in TYPES.values() if row.plain is None], ids=lambda row: row.name
)  # fmt: skip
KNOWN = pytest.mark.parametrize(
    "row", [row for row in TYPES.values() if row.name not in UNKNOWN_TO_THE_PACKAGE], ids=lambda row: row.name
)


def random_bytes(row: Blocks, rows: int, inputs: int) -> NDArray[np.uint8]:
    return np.random.default_rng(row.ggml).integers(0, 256, (rows, row.row_bytes(inputs)), dtype=np.uint8)


def assert_same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """All NaN are alike: their bits differ between processors."""
    both_nan = np.isnan(found) & np.isnan(expected)
    assert ((found.view(np.uint32) == expected.view(np.uint32)) | both_nan).all()


@KNOWN
def test_random_bytes_are_what_the_gguf_package_makes_of_them(row: Blocks) -> None:
    shape = (5, AT_ONCE // 4 + 1024)  # more than one round, and a last one that is not full
    data = random_bytes(row, *shape)
    with np.errstate(all="ignore"):  # random scales are NaN and infinite too
        expected = gguf.quants.dequantize(data, GGMLQuantizationType(row.ggml))
    assert_same_bits(row.to_f32(data, {}, shape), expected.astype(np.float32))


@KNOWN
def test_blocks_are_as_large_as_the_gguf_package_has_them(row: Blocks) -> None:
    assert (row.weights, row.block_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType(row.ggml)]
    assert row.name == f"gguf-{GGMLQuantizationType(row.ggml).name.lower()}"
    assert row.bits == 8 * row.block_bytes / row.weights


@BLOCKS
def test_blocks_of_llama_cpp_are_what_its_c_code_makes_of_them(row: Blocks) -> None:
    with np.load(GOLDEN) as golden:
        data, digest = golden[row.name], str(golden[row.name + ".sha256"])
    assert hashlib.sha256(row.to_f32(data, {}, SHAPE).tobytes()).hexdigest() == digest


@EACH
def test_rows_are_cut_anywhere(row: Blocks) -> None:
    shape = (7, 256)
    weight = Weight(random_bytes(row, *shape), shape, row)
    part = weight.rows(2, 5)
    assert np.shares_memory(part.data, weight.data)
    np.testing.assert_array_equal(part.to_f32(), weight.to_f32()[2:5])


@EACH
def test_rows_may_lie_in_another_order(row: Blocks) -> None:
    shape = (24, 256)
    data = random_bytes(row, *shape)
    order = np.arange(24).reshape(3, 4, 2).swapaxes(1, 2).reshape(-1)
    view = data.reshape(3, 4, 2, -1).swapaxes(1, 2)
    weight = Weight(view, shape, row)
    assert np.shares_memory(weight.data, data)
    np.testing.assert_array_equal(weight.to_f32(), row.to_f32(data, {}, shape)[order])
    np.testing.assert_array_equal(weight.rows(5, 19).to_f32(), weight.to_f32()[5:19])
    np.testing.assert_array_equal(row.contiguous(view, shape), data[order])
    assert np.shares_memory(row.contiguous(data, shape), data)


@EACH
def test_other_arrays_are_refused(row: Blocks) -> None:
    data = random_bytes(row, 3, 512)
    for wrong in (data[:2], data[:, :-1], data.view(np.int8), data.reshape(-1)):
        with pytest.raises(ShapeError, match=r"expected uint8 \[3, "):
            Weight(wrong, (3, 512), row)
    with pytest.raises(ShapeError):
        Weight(data, (3, 512), row, parts={"scales": data})


@BLOCKS
def test_rows_end_with_a_block(row: Blocks) -> None:
    with pytest.raises(ShapeError, match=f"multiple of {row.weights}"):
        Weight(random_bytes(row, 3, 512), (3, 511), row)


def test_without_the_package_its_types_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    book.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    row = next(row for row in TYPES.values() if row.name == "gguf-iq2_xs")
    with pytest.raises(FormatError, match=r'pip install "octuor\[gguf\]"'):
        row.to_f32(random_bytes(row, 1, 256), {}, (1, 256))
