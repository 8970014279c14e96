"""Choosing an implementation, threads, leaves without copies, and what bad arguments raise."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random, stored
from octuor import _native
from octuor.batch import Batch, step, whole
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.errors import BackendError, FormatError, RequestError, ShapeError
from octuor.machine import Machine, read_machine
from octuor.ops import Routing
from octuor.ops.native import (
    ISA_VARIABLE,
    PIN_VARIABLE,
    NativeOps,
    choose_isa,
    implementations,
    machine_report,
    pin_order,
    quantizer,
    read_bandwidth_gb_s,
)
from octuor.quant import BF16, F16, F32, FORMATS, Q4, Format
from octuor.weights import Expert, Weight

ALL = pytest.mark.parametrize("isa", implementations())
TILED = [row for row in FORMATS.values() if row.is_tiled]
EACH_TILED = pytest.mark.parametrize("row", TILED, ids=lambda row: row.name)
FAR_SCALES = 1.002  # the definition tries every scale of a group, the kernels those near the ideal one
EACH_FORMAT = pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)


# Implementations


def test_the_scalar_definition_is_always_among_the_implementations() -> None:
    assert implementations()[0] == "scalar"
    assert set(implementations()) <= {name for name, _ in _native.implementations()}


def test_the_fastest_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert NativeOps(threads=1).isa == implementations()[-1]


def test_the_environment_chooses_and_the_argument_overrules_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "scalar")
    assert NativeOps(threads=1).isa == "scalar"
    assert NativeOps(implementations()[-1], threads=1).isa == implementations()[-1]
    monkeypatch.setenv(ISA_VARIABLE, "")
    assert choose_isa(None) == implementations()[-1]


def test_an_instruction_set_that_is_not_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"machine has, scalar.*found 'mmx'"):
        NativeOps("mmx")
    monkeypatch.setenv(ISA_VARIABLE, "mmx")
    with pytest.raises(BackendError, match="found 'mmx'"):
        NativeOps()
    with pytest.raises(BackendError, match="found mmx"):
        _native.Context("mmx", 1)


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_an_impossible_number_of_threads_is_an_error(threads: int) -> None:
    with pytest.raises(BackendError, match=r"threads: expected 1\.\.1024"):
        NativeOps(threads=threads)


def test_threads_default_to_the_usable_cpus() -> None:
    assert NativeOps().threads == read_machine().threads >= 1
    assert NativeOps(threads=3).threads == 3


def test_pinned_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever this process may run; one thread more than there are CPUs is refused."""
    before = os.sched_getaffinity(0)
    n_cpus = len(before)
    x, matrix = random(64, 300), random(500, 300)
    pinned, free = NativeOps(threads=n_cpus, pin=True), NativeOps(threads=n_cpus, pin=False)
    assert pinned.threads == n_cpus
    weight = free.put(Weight(matrix, matrix.shape, F32))
    np.testing.assert_array_equal(pinned.linear(x, weight), free.linear(x, weight))
    assert os.sched_getaffinity(0) == before  # the caller's thread is the caller's
    monkeypatch.setenv(PIN_VARIABLE, "1")
    assert NativeOps(threads=1).threads == 1
    with pytest.raises(BackendError, match=f"pin: expected at most {n_cpus} threads.*found {n_cpus + 1}"):
        NativeOps(threads=n_cpus + 1)
    assert NativeOps(threads=n_cpus + 1, pin=False).threads == n_cpus + 1


def test_threads_are_pinned_to_performance_cores_first() -> None:
    machine = Machine((0, 1, 2, 3, 4), (0, 2, 4), (2, 4), ((0, 1, 2, 3, 4),), None, 2, "")
    assert pin_order(machine, 2) == (2, 4)
    assert pin_order(machine, 5) == (2, 4, 0, 1, 3)


def test_a_cpu_that_is_not_ours_cannot_be_pinned_to() -> None:
    with pytest.raises(BackendError, match="pin: expected CPUs this process may run on, found 1000"):
        _native.Context("scalar", 2, [0, 1000])


def test_machine_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "scalar")
    report = machine_report()
    assert report["cpu"]
    assert report["threads"] == read_machine().threads
    assert [row["name"] for row in report["kernels"] if row["supported"]] == list(implementations())
    assert [row["name"] for row in report["kernels"] if row["chosen"]] == ["scalar"]


def test_read_bandwidth() -> None:
    assert 0.01 < read_bandwidth_gb_s(threads=2, n_bytes=8 << 20) < 100_000


# Threads


@ALL
@EACH_FORMAT
def test_results_do_not_depend_on_the_number_of_threads(isa: str, row: Format) -> None:
    results = []
    for threads in (1, 2, 5):
        ops = NativeOps(isa, threads)
        leaves = [Expert(*(ops.put(stored(row.name, 300, 300, seed)) for seed in (e, e + 1, e + 2))) for e in range(4)]
        x = random(37, 300)
        routing = ops.route(x, ops.put(stored("f32", 4, 300)), 2)
        q, k = random(37, 4, 8), random(37, 2, 8)
        attended = ops.attention(q, k, k, whole([[0] * 37]), 0, None)
        results.append(
            [ops.linear(x, leaves[0].gate), ops.moe(x, routing, leaves), ops.linear(x[:1], leaves[1].up), attended]
        )
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_calls_from_several_threads_do_not_mix() -> None:
    ops = NativeOps(threads=2)
    leaf = ops.put(stored("q4", 700, 600))
    inputs = [random(n, 600, seed=n) for n in range(1, 9)]
    expected = [ops.linear(x, leaf) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: ops.linear(x, leaf), inputs * 20))
    for got, wanted in zip(found, itertools.cycle(expected)):
        np.testing.assert_array_equal(got, wanted)


# Leaves


@EACH_FORMAT
def test_put_does_not_copy(row: Format) -> None:
    ops = NativeOps(threads=1)
    other, x = stored(row.name, 70, 300), random(1, 300)
    weight = Weight(np.zeros_like(other.data), (70, 300), row)
    leaf = ops.put(weight)
    weight.data[...] = other.data
    np.testing.assert_array_equal(ops.linear(x, leaf), ops.linear(x, ops.put(other)))
    assert (leaf.shape, leaf.format) == ((70, 300), row.name)


@EACH_FORMAT
def test_mapped_read_only_weights(row: Format, tmp_path: Path) -> None:
    ops = NativeOps(threads=1)
    weight = stored(row.name, 70, 300)
    (tmp_path / "weight").write_bytes(b"odd" + weight.data.tobytes())  # not even aligned
    mapped = np.memmap(tmp_path / "weight", row.dtype, "r", offset=3, shape=weight.data.shape)
    leaf, x = ops.put(Weight(mapped, (70, 300), row)), random(2, 300)
    del mapped  # the leaf keeps it alive
    np.testing.assert_array_equal(ops.linear(x, leaf), ops.linear(x, ops.put(weight)))


def test_vectors_become_float32() -> None:
    values = random(9)
    for row in (F32, F16, BF16):
        weight = Weight(row.quantize(values), (9,), row)
        leaf = NativeOps(threads=1).put(weight)
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, weight.to_f32())


def test_zeros() -> None:
    ops = NativeOps(threads=1)
    assert ops.zeros((2, 3), "f16").dtype == np.float16
    assert ops.zeros((2, 3), "f32").dtype == np.float32
    assert not ops.zeros((2, 3), "f32").any()


def test_strided_weights_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"wq: expected its rows one after the other"):
        NativeOps(threads=1).put(Weight(random(8, 6)[:, ::2], (8, 3), F32, "wq"))
    with pytest.raises(TypeError):
        _native.Matrix(random(8, 6)[:, ::2], (8, 3), "f32")


def test_storage_that_does_not_fit_its_format_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \[1, 2, 8960\]"):
        _native.Matrix(np.zeros((1, 1, 8960), np.uint8), (64, 257), "q4")
    with pytest.raises(ShapeError, match="wrong dtype for bf16"):
        _native.Matrix(random(2, 3), (2, 3), "bf16")
    with pytest.raises(ShapeError, match="at least one row"):
        _native.Matrix(np.zeros((0, 3), np.float32), (0, 3), "f32")
    with pytest.raises(ShapeError, match=r"expected a matrix, found \[6\]"):
        _native.Matrix(random(6), (6,), "f32")
    with pytest.raises(FormatError, match="found q7"):
        _native.Matrix(random(2, 3), (2, 3), "q7")


# Arguments

OPS = NativeOps(threads=1)
LEAF = OPS.put(Weight(random(4, 6), (4, 6), F32))
IDS = np.array([0, 1], dtype=np.int32)
HALVES = random(2, 6).astype(np.float16)


@pytest.mark.parametrize(
    "call",
    [
        lambda: OPS.linear(random(2, 6).astype(np.float64), LEAF),
        lambda: OPS.linear(HALVES, LEAF),  # type: ignore[arg-type]
        lambda: OPS.linear(random(2, 12)[:, ::2], LEAF),
        lambda: OPS.linear(random(6, 2).T, LEAF),
        lambda: OPS.linear(random(1, 2, 6), LEAF),
        lambda: OPS.linear(random(2, 6), random(4, 6)),  # type: ignore[arg-type]
        lambda: OPS.rms_norm(random(2, 6), random(6).astype(np.float64), 1e-5),
        lambda: OPS.embed(IDS.astype(np.int64), LEAF),
        lambda: OPS.rope(random(2, 1, 6), IDS.astype(np.int64), 1e4),
        lambda: OPS._context.linear(random(2, 6), LEAF, np.zeros((2, 4))),  # type: ignore[arg-type]
        lambda: OPS._context.linear(random(2, 6), LEAF, np.zeros((4, 2), np.float32).T),
    ],
)
def test_a_wrong_dtype_or_layout_is_a_type_error(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()


def test_a_read_only_result_is_a_type_error() -> None:
    out = np.zeros((2, 4), dtype=np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        OPS._context.linear(random(2, 6), LEAF, out)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OPS.linear(random(2, 5), LEAF), r"x: expected \[2, 6\], found \[2, 5\]"),
        (lambda: OPS.rms_norm(random(2, 6), random(5), 1e-5), r"norm weight: expected \[6\], found \[5\]"),
        (lambda: OPS.rope(random(2, 1, 5), IDS, 1e4), "even head_dim, found 5"),
        (lambda: OPS.rope(random(3, 1, 6), IDS, 1e4), r"positions: expected \[3\]"),
        (lambda: OPS.route(random(2, 5), LEAF, 2), r"x: expected \[2, 6\]"),
        (lambda: attend(k=random(2, 3, 4), v=random(2, 3, 4)), "multiple of k's 3"),
        (lambda: attend(k=random(3, 2, 4)), r"k: expected \[2, 2, 4\]"),
        (lambda: attend(v=random(2, 2, 6)), r"v: expected \[2, 2, 4\]"),
        (lambda: attend(starts=[0, 1]), "expected to end at 2, found 1"),
        (lambda: attend(starts=[0, 3]), "rising from 0 to 2, found 3"),
        (lambda: attend(starts=[0, 2, 1, 2]), "found 1 at place 2"),
        (lambda: attend(starts=[1, 2]), "found 1 at place 0"),
        (lambda: moe(down=random(6, 4)), r"expert down: expected \[6, 8\], found \[6, 4\]"),
        (lambda: moe(gate=random(8, 5)), r"expert gate: expected \[8, 6\], found \[8, 5\]"),
        (lambda: moe(up=random(7, 6)), r"expert up: expected \[8, 6\], found \[7, 6\]"),
    ],
)
def test_a_wrong_shape_is_a_shape_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: OPS.embed(np.array([0, 4], np.int32), LEAF),
            r"token ids: expected numbers in 0\.\.3, found 4 at place 1",
        ),
        (lambda: OPS.embed(np.array([-1], np.int32), LEAF), "found -1"),
        (lambda: OPS.route(random(2, 6), LEAF, 5), r"experts a token: expected 1\.\.4, found 5"),
        (lambda: moe(experts=[[0, 1], [2, 0]]), r"experts: expected numbers in 0\.\.1, found 2 at place 2"),
        (lambda: moe(experts=[[0, -1], [0, 0]]), "found -1"),
        (lambda: attend(positions=[0, 2]), r"positions of a whole sequence: expected numbers in 0\.\.1, found 2"),
        (lambda: attend(positions=[-1, 0]), "found -1"),
        (lambda: attend(window=0), "window: expected at least 1, found 0"),
    ],
)
def test_a_number_out_of_range_is_a_request_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call()


def attend(
    k: NDArray[np.float32] | None = None,
    v: NDArray[np.float32] | None = None,
    starts: list[int] | None = None,
    positions: list[int] | None = None,
    window: int | None = None,
) -> NDArray[np.float32]:
    plain = random(2, 2, 4)
    at = np.array([0, 1] if positions is None else positions, dtype=np.int32)
    batch = Batch(at, at, np.array([0, 2] if starts is None else starts, dtype=np.int32))
    return OPS.attention(random(2, 4, 4), plain if k is None else k, plain if v is None else v, batch, 0, window)


def moe(experts: list[list[int]] | None = None, **parts: NDArray[np.float32]) -> NDArray[np.float32]:
    own = {"gate": random(8, 6), "up": random(8, 6), "down": random(6, 8)} | parts
    expert = Expert(**{name: OPS.put(Weight(x, x.shape, F32)) for name, x in own.items()})
    chosen = np.array([[0, 1], [1, 0]] if experts is None else experts, dtype=np.int32)
    routing = Routing(chosen, np.full((2, 2), 0.5, np.float32), random(2, 2))
    return OPS.moe(random(2, 6), routing, (expert, expert))


def test_an_expert_that_is_not_a_leaf_is_a_shape_error() -> None:
    expert = Expert(LEAF, "up", LEAF)
    routing = Routing(np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32), random(1, 1))
    with pytest.raises(ShapeError, match="expert up: expected a matrix"):
        OPS.moe(random(1, 6), routing, (expert,))


def cached_step() -> tuple[Batch, NDArray[np.float32], KVCache]:
    config = ModelConfig(
        dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, hidden_dim=8, vocab_size=8, n_experts=1,
        n_experts_per_token=1,
    )  # fmt: skip
    cache = KVCache(config, OPS.zeros, 12, dtype="f32", page_size=4)
    sequence = cache.new()
    return step(cache, [(sequence, [0] * 6)]), random(6, 1, 4), cache


def test_a_page_that_is_not_in_the_cache_is_a_request_error() -> None:
    for page in (3, -1):
        batch, k, _ = cached_step()
        batch.table[0, 1] = page
        with pytest.raises(RequestError, match=rf"cache pages: expected numbers in 0\.\.2, found {page} at place 1"):
            OPS.attention(random(6, 2, 4), k, k, batch, 0, None)


def test_a_position_beyond_the_page_table_is_a_request_error() -> None:
    batch, k, _ = cached_step()
    batch.positions[5] = 8
    with pytest.raises(RequestError, match=r"positions: expected numbers in 0\.\.7, found 8"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)


def test_a_cache_of_another_shape_or_dtype_is_a_shape_error() -> None:
    batch, k, cache = cached_step()
    cache.keys[0] = np.zeros((3, 1, 4, 6), dtype=np.float32)
    with pytest.raises(ShapeError, match=r"cached keys: expected \[3, 1, 4, 4\], found \[3, 1, 4, 6\]"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)
    cache.keys[0] = np.zeros((3, 1, 4, 4), dtype=np.float16)
    with pytest.raises(ShapeError, match="keys and values in float32 or float16"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)


# Quantizing


@ALL
@EACH_TILED
@pytest.mark.parametrize("shape", [(1, 1), (64, 256), (65, 300), (130, 700)], ids=str)
def test_quantize_is_at_least_as_near_as_the_definition(isa: str, row: Format, shape: tuple[int, int]) -> None:
    x = random(*shape)
    ops = NativeOps(isa, threads=2)
    errors = [np.square(row.dequantize(data, shape) - x).mean() for data in (ops.quantize(x, row), row.quantize(x))]
    assert errors[0] <= errors[1] * FAR_SCALES


@ALL
@EACH_TILED
def test_every_implementation_quantizes_alike(isa: str, row: Format) -> None:
    x = random(70, 600)
    found, expected = (row.dequantize(NativeOps(name, 1).quantize(x, row), x.shape) for name in (isa, "scalar"))
    # Two candidates may be within a rounding of each other, and then either may be chosen.
    assert np.square(found - expected).mean() < 1e-4 * np.square(expected - x).mean()


@EACH_TILED
def test_quantize_edges(row: Format) -> None:
    ops = NativeOps(threads=2)
    assert not row.dequantize(ops.quantize(np.zeros((3, 300), np.float32), row), (3, 300)).any()
    padded = row.dequantize(ops.quantize(random(3, 272), row), (64, 512))
    assert not padded[3:].any()
    assert not padded[:, 272:].any()
    for scale in (np.float32(1e-15), np.float32(1e15)):
        x = random(64, 256) * scale
        error = row.dequantize(ops.quantize(x, row), x.shape).astype(np.float64) - x
        assert np.sqrt(np.square(error).mean()) < row.error * scale
    assert np.isfinite(row.dequantize(ops.quantize(np.full((2, 2), 1e-42, np.float32), row), (2, 2))).all()


@EACH_TILED
def test_quantize_takes_halves_as_they_are_stored(row: Format) -> None:
    quantize = quantizer(threads=1)
    for plain in (F16, BF16):
        data = plain.quantize(random(65, 300))
        widened = plain.dequantize(data, (65, 300))
        np.testing.assert_array_equal(quantize(data, row), quantize(widened, row))


def test_quantize_to_a_plain_format() -> None:
    x = random(3, 5)
    np.testing.assert_array_equal(quantizer(1)(x, BF16), BF16.quantize(x))


@ALL
@EACH_TILED
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_refuses_numbers_that_are_not_finite(isa: str, row: Format, bad: float) -> None:
    x = random(200, 300)
    x[150, 299] = x[199, 0] = bad
    with pytest.raises(FormatError, match="row 150"):
        NativeOps(isa, threads=2).quantize(x, row)


def test_quantize_refuses_other_arrays() -> None:
    with pytest.raises(FormatError, match="found float64"):
        NativeOps(threads=1).quantize(np.zeros((2, 2)), Q4)
    with pytest.raises(TypeError):
        NativeOps(threads=1).quantize(random(4, 8)[:, ::2], Q4)
