"""What this machine can do at most, measured by small native loops between the repeats of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from octuor.ops.native import PROBE_BYTES, NativeOps


@dataclass(frozen=True)
class Limits:
    """Rates that all threads reach together, in 1e9 a second; None: the instruction set has no such instruction.

    read_gb_per_s     reading memory from end to end
    int8_gop_per_s    dot products of int8 numbers
    f32_gflop_per_s   multiply-add of float32
    bf16_gflop_per_s  dot products of bfloat16
    instructions      "int8", "f32", "bf16" -> what was measured: the set's best for it
    """

    read_gb_per_s: float
    int8_gop_per_s: float | None
    f32_gflop_per_s: float | None
    bf16_gflop_per_s: float | None
    instructions: dict[str, str]


def measure_limits(ops: NativeOps, n_bytes: int = PROBE_BYTES) -> Limits:
    """One sample of every limit; about a second. n_bytes: of memory that is read, and taken for it."""
    peaks = ops.peaks()
    int8, f32, bf16 = (peaks[kind][1] if kind in peaks else None for kind in ("int8", "f32", "bf16"))
    return Limits(
        ops.read_bandwidth_gb_s(n_bytes),
        int8,
        f32,
        bf16,
        {kind: instruction for kind, (instruction, _) in peaks.items()},
    )


def median_limits(samples: Sequence[Limits]) -> Limits:
    """The median of each limit, as rows have medians too; all samples are of one machine."""
    return Limits(
        median(sample.read_gb_per_s for sample in samples),
        _median([sample.int8_gop_per_s for sample in samples]),
        _median([sample.f32_gflop_per_s for sample in samples]),
        _median([sample.bf16_gflop_per_s for sample in samples]),
        samples[0].instructions,
    )


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
