"""Limits of the machine: every instruction set has its own, and medians are taken one by one."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from octuor.bench.limits import Limits, measure_limits, median_limits
from octuor.ops.native import NativeOps, implementations

SMALL = 8 << 20
INT8 = {  # of x86
    "scalar": "pmaddubsw, pmaddwd, paddd",
    "avx2": "vpmaddubsw, vpmaddwd, vpaddd",
    "avx512": "vpmaddubsw, vpmaddwd, vpaddd",
    "avx512vnni": "vpdpbusd",
}


class SmallProbe(NativeOps):
    """Reads little memory."""

    def read_bandwidth_gb_s(self, n_bytes: int = SMALL) -> float:
        return super().read_bandwidth_gb_s(n_bytes)


@pytest.mark.parametrize("isa", implementations())
def test_every_instruction_set_has_limits(isa: str) -> None:
    limits = measure_limits(SmallProbe(isa, threads=2))
    known = [limits.read_gb_per_s, limits.int8_gop_per_s, limits.f32_gflop_per_s]
    assert all(rate is not None and np.isfinite(rate) and rate > 0 for rate in known)
    assert (limits.bf16_gflop_per_s is None) == ("bf16" not in limits.instructions)
    if platform.machine() == "x86_64" and isa in INT8:
        assert limits.instructions["int8"] == INT8[isa]


def test_medians_of_each_limit() -> None:
    samples = [Limits(rate, 10 - rate, None, 7.0, {"f32": "fma"}) for rate in (1.0, 5.0, 2.0)]
    assert median_limits(samples) == Limits(2.0, 8.0, None, 7.0, {"f32": "fma"})
