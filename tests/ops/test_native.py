"""Choosing an implementation, threads, and leaves without copies."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from definitions import random, stored
from octuor import _native
from octuor.batch import whole
from octuor.errors import BackendError, FormatError, ShapeError
from octuor.machine import Machine, read_machine
from octuor.ops.native import (
    ISA_VARIABLE,
    PIN_VARIABLE,
    NativeOps,
    choose_isa,
    implementations,
    machine_report,
    pin_order,
    read_bandwidth_gb_s,
)
from octuor.quant import BF16, F16, F32, FORMATS, Format
from octuor.weights import Expert, Weight

ALL = pytest.mark.parametrize("isa", implementations())
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
