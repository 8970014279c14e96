"""Other programs' weights as they lie: their values to the last bit, their products, on every instruction set."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import definitions
from definitions import random
from foreign import BLOCKS, SAMPLES, awq, blocks, bnb_4, bnb_int8, fp8, gptq, hqq, int8, mixed_heads, packed
from octuor import _native
from octuor.errors import FormatError, ShapeError
from octuor.ops.layouts import native_name
from octuor.ops.native import NativeOps, implementations, runs_in_place
from octuor.quant import BF16, FORMATS
from octuor.quant.base import Array
from octuor.quant.hqq import Hqq
from octuor.weights import Expert, Weight
from toys import relative_error

FLOAT32 = 4e-6  # sums of up to 600 products in float32, relative to the largest result
TOKENS = (1, 2, 3, 4, 5, 6, 7, 9, 33)  # around register blocks
KINDS = [name for name, make in SAMPLES.items() if runs_in_place(make(64, 256, 0).format)]
ALL = pytest.mark.parametrize("isa", implementations())
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
EACH_FORMAT = pytest.mark.parametrize("name", FORMATS)


@cache
def sample(kind: str, out: int, inputs: int, seed: int = 0) -> Weight:
    return SAMPLES[kind](out, inputs, seed)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


def test_every_format_of_the_kernels_is_tested() -> None:
    names = {native_name(sample(kind, 64, 256).format) for kind in KINDS}
    assert names | set(FORMATS) == set(_native.formats())


@ALL
@EACH_KIND
def test_values_are_those_of_the_storage(isa: str, kind: str) -> None:
    ops = NativeOps(isa, threads=2)
    for shape in ((8, 256), (72, 512), (136, 256)):
        weight = sample(kind, *shape)
        expected = weight.to_f32()
        assert_same_bits(ops.dequantize(weight), expected)
        ids = np.array([shape[0] - 1, 0, 5], dtype=np.int32)
        assert_same_bits(ops.embed(ids, ops.put(weight)), expected[ids])


@ALL
@EACH_FORMAT
def test_values_of_formats_of_ours(isa: str, name: str) -> None:
    ops = NativeOps(isa, threads=2)
    for shape in ((1, 1), (65, 257), (129, 515)):  # those of test_native_linear.py, made once
        weight = definitions.stored(name, *shape)
        assert_same_bits(ops.dequantize(weight), weight.to_f32())
        np.testing.assert_array_equal(ops.dequantize_bf16(weight), BF16.quantize(weight.to_f32()))


@ALL
@EACH_KIND
def test_products_do_not_depend_on_other_tokens(isa: str, kind: str) -> None:
    ops, alone = NativeOps(isa, threads=2), NativeOps(isa, threads=1)
    for shape in ((72, 768), (136, 256)):
        weight = sample(kind, *shape)
        leaf, x = ops.put(weight), random(max(TOKENS), shape[1])
        one_by_one = np.concatenate([alone.linear(x[t : t + 1], leaf) for t in range(len(x))])
        assert relative_error(one_by_one, definitions.linear(x, weight)) < FLOAT32
        for n in TOKENS:
            np.testing.assert_array_equal(ops.linear(x[-n:], leaf), one_by_one[-n:], err_msg=str(n))


@ALL
def test_rows_and_inputs_that_fill_no_block(isa: str) -> None:
    """Rows below a strip, inputs below a column, groups that are shorter at the end, codes that straddle words."""
    ops = NativeOps(isa, threads=1)
    weights = [
        blocks("gguf-q4_0", 3, 32),
        blocks("gguf-q5_1", 17, 288),
        gptq(3, 40, 40, group=33),
        gptq(8, 72, 100, group=96, scales="bf16"),
        gptq(2, 16, 20, group=20, scales="f32"),
        awq(72, 99, group=64, scales="bf16"),
        awq(8, 5, group=64, scales="f32"),
        fp8(30, 67, block_inputs=40, scales="bf16"),
        fp8(5, 3, block_rows=0, block_inputs=0),
        int8(5, 33, zeros=False),
        int8(9, 600, block_rows=0),
        packed(4, 7, 75, zeros=False, scales="f32"),
        packed(3, 40, 100, group=24),
        bnb_int8(5, 35),
        bnb_4("nf4", 9, 50, dtype="f32"),  # blocks that end inside rows
        bnb_4("nf4", 3, 1030, nested=False),
        hqq(3, 11, 128, axis=0, group=32, dtype="f32"),
        hqq(4, 6, 90, group=None),
        hqq(2, 16, 40, axis=0, group=None, dtype="bf16"),
        hqq(1.58, 16, 100, group=50),
    ]
    for weight in weights:
        x = random(7, weight.shape[1])
        assert_same_bits(ops.dequantize(weight), weight.to_f32())
        assert relative_error(ops.linear(x, ops.put(weight)), definitions.linear(x, weight)) < FLOAT32, weight.name


@ALL
def test_experts(isa: str) -> None:
    ops, one = NativeOps(isa, threads=2), NativeOps(isa, threads=1)
    x, router = random(40, 256), ops.put(definitions.stored("f32", 4, 256))
    kinds = ["gguf-q4_k", "gptq-4", "awq-4", "gguf-q6_k"]
    experts = [
        Expert(sample(kind, 512, 256, 1), sample(kind, 512, 256, 2), sample(down, 256, 512, 3))
        for kind, down in zip(kinds, kinds[1:] + kinds[:1], strict=True)
    ]
    leaves = [Expert(ops.put(e.gate), ops.put(e.up), ops.put(e.down)) for e in experts]
    routing = ops.route(x, router, 2)
    found = ops.moe(x, routing, leaves)
    assert relative_error(found, definitions.moe(x, routing, experts)) < 5e-3  # hidden inputs between two codes
    for t in (0, 17, 39):
        own = slice(t, t + 1)
        alone = one.moe(x[own], type(routing)(*(part[own] for part in routing)), leaves)
        np.testing.assert_array_equal(alone, found[own])


@ALL
def test_mixed_halves_of_heads_run_as_they_lie(isa: str) -> None:
    ops = NativeOps(isa, threads=1)
    for half_head in (8, 24):
        weight = mixed_heads(sample("gguf-q4_k", 144, 512), half_head)
        leaf, x = ops.put(weight), random(5, 512)
        assert_same_bits(ops.dequantize(weight), weight.to_f32())
        assert relative_error(ops.linear(x, leaf), definitions.linear(x, weight)) < FLOAT32


def test_views_of_some_rows_run_as_they_lie() -> None:
    ops = NativeOps(threads=1)
    for kind in KINDS:
        whole = sample(kind, 192, 256)
        start = 64 // whole.format.row_multiple * whole.format.row_multiple
        assert_same_bits(ops.dequantize(whole.rows(start, 160)), whole.to_f32()[start:160])
    whole = bnb_4("nf4", 300, 90)  # rows that begin inside a block, and inside a nested one
    assert_same_bits(ops.dequantize(whole.rows(183, 290)), whole.to_f32()[183:290])


def test_a_leaf_keeps_its_arrays_and_copies_none() -> None:
    ops, x = NativeOps(threads=1), random(1, 256)
    weight, other = gptq(4, 64, 256, seed=1), gptq(4, 64, 256, seed=2)
    leaf = ops.put(weight)
    weight.data[...] = other.data
    for name, part in weight.parts.items():
        part[...] = other.parts[name]
    del weight, part
    np.testing.assert_array_equal(ops.linear(x, leaf), ops.linear(x, ops.put(other)))
    assert (leaf.shape, leaf.format) == ((64, 256), "gptq-4")


def test_codes_that_are_not_numbers() -> None:
    weight = fp8(8, 64)
    weight.data[3, 5], weight.data[7, 63] = 0x7F, 0xFF
    found = NativeOps(threads=1).dequantize(weight)
    np.testing.assert_array_equal(found, weight.to_f32())
    assert np.isnan(found[3, 5])
    assert np.isnan(found[7, 63])
    assert np.isnan(found).sum() == 2


def test_quantized_zeros_and_scales_of_hqq() -> None:
    nested = hqq(8, 64 * 4, 1, group=128, dtype="f16")
    plain = hqq(4, 64, 256)
    assert isinstance(plain.format, Hqq)
    assert isinstance(nested.format, Hqq)
    storage = replace(plain.format, zero=nested.format)
    below = {"zero.data": nested.data, "zero.zero": nested.parts["zero"], "zero.scale": nested.parts["scale"]}
    weight = Weight(plain.data, (64, 256), storage, "hqq", {"scale": plain.parts["scale"], **below})
    assert_same_bits(NativeOps(threads=1).dequantize(weight), weight.to_f32())


def test_blocks_that_hold_numbers_that_are_not_finite() -> None:
    weight = blocks("gguf-q4_k", 16, 256)
    weight.data.view(BLOCKS["gguf-q4_k"].layout)["d"] = np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(NativeOps(threads=1).dequantize(weight), weight.to_f32())


# Arguments that do not fit


def test_groups_that_are_not_there_are_refused() -> None:
    for bad in (-1, 8):
        weight = gptq(4, 64, 256, act_order=True)
        weight.parts["g_idx"][17] = bad
        with pytest.raises(FormatError, match=rf"gptq-4: g_idx: expected groups from 0 to 7, found {bad}"):
            NativeOps(threads=1).put(weight)


def test_parts_that_do_not_fit_are_refused() -> None:
    weight = gptq(4, 64, 256)
    data, parts, numbers = weight.data, dict(weight.parts), {"group_size": 32, "added": 0}

    def refuse(match: str, data: Array = data, parts: dict[str, Array] | None = None, group_size: int = 32) -> None:
        with pytest.raises(ShapeError, match=match):
            _native.Matrix(
                data, (64, 256), "gptq-4", {**weight.parts, **(parts or {})}, numbers | {"group_size": group_size}
            )

    refuse(r"qweight: expected \[32, 64\], found \[31, 64\]", data=data[:-1])
    refuse("wrong dtype for gptq-4", data=data.view(np.uint32))
    refuse("lines of numbers side by side", data=np.asfortranarray(data))
    refuse(r"scales: expected \[8, 64\], found \[8, 32\]", parts={"scales": parts["scales"][:, :32]})
    refuse("scales: expected float32", parts={"scales": parts["scales"].astype(np.float64)})
    refuse(r"scales: expected 8 groups, found 7", parts={"scales": parts["scales"][:7], "qzeros": parts["qzeros"][:7]})
    refuse(r"qzeros: expected \[8, 8\], found \[8, 7\]", parts={"qzeros": parts["qzeros"][:, :7]})
    refuse("qzeros: expected int32", parts={"qzeros": parts["qzeros"].view(np.uint32)})
    refuse(r"g_idx: expected \[256\], found \[255\]", parts={"g_idx": np.zeros(255, np.int32)})
    refuse("g_idx: expected int32", parts={"g_idx": np.zeros(256, np.int64)})
    refuse("group_size: expected at least 1, found 0", group_size=0)
    with pytest.raises(ShapeError, match="expected an array scales, found none"):
        _native.Matrix(data, (64, 256), "gptq-4", {}, numbers)
    with pytest.raises(ShapeError, match="expected a number group_size, found none"):
        _native.Matrix(data, (64, 256), "gptq-4", parts, {})
    with pytest.raises(ShapeError, match="expected the parts of gptq-4, found none"):
        _native.Matrix(data, (64, 256), "gptq-4")
    with pytest.raises(ShapeError, match="expected no parts for f32"):
        _native.Matrix(random(2, 3), (2, 3), "f32", {}, {})
    with pytest.raises(ShapeError, match="rows in a multiple of 8, found 60"):
        _native.Matrix(data, (60, 256), "awq-4", parts, numbers)


def test_blocks_that_do_not_fit_are_refused() -> None:
    rows = np.zeros((16, 144), np.uint8)
    with pytest.raises(ShapeError, match="inputs in a multiple of 256 for gguf-q4_k, found 250"):
        _native.Matrix(rows, (16, 250), "gguf-q4_k")
    with pytest.raises(ShapeError, match=r"expected \[16, 288\], found \[16, 144\]"):
        _native.Matrix(rows, (16, 512), "gguf-q4_k")
    halves = rows.reshape(2, 2, 4, 144)
    with pytest.raises(ShapeError, match="expected 32 rows of bytes side by side"):
        _native.Matrix(halves, (32, 256), "gguf-q4_k", {}, {})
    with pytest.raises(ShapeError, match=r"expected \[2, 2, 4, 288\]"):
        _native.Matrix(halves, (16, 512), "gguf-q4_k", {}, {})
    with pytest.raises(ShapeError, match="rows in heads and halves"):
        _native.Matrix(rows, (16, 256), "gguf-q4_k", {}, {})
