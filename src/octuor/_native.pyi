"""The compiled kernels, as native/bindings.cpp exposes them. Arrays are contiguous and never converted."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]

class Matrix:
    """A weight [out, inputs] where it lies; keeps its arrays alive."""

    @overload
    def __init__(self, data: NDArray[Any], shape: tuple[int, ...], format: str) -> None: ...
    @overload
    def __init__(
        self,
        data: NDArray[Any],
        shape: tuple[int, ...],
        format: str,
        parts: dict[str, NDArray[Any]],
        numbers: dict[str, int],
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def format(self) -> str: ...

class LowRank:
    """Changes b a of one matrix [out, inputs], a slot an adapter: a [rank, inputs] and b transposed [rank, out]."""

    def __init__(self, pairs: Sequence[tuple[F32Array, F32Array] | None], out: int, inputs: int) -> None: ...

class Context:
    """The kernels of one instruction set with their threads. Every op writes its result to the last arguments."""

    def __init__(self, isa: str, n_threads: int, cpus: Sequence[int] = ()) -> None: ...
    @property
    def n_threads(self) -> int: ...
    def embed(self, weight: Matrix, tokens: I32Array, out: F32Array) -> None: ...
    def rms_norm(self, x: F32Array, weight: F32Array, eps: float, out: F32Array) -> None: ...
    def linear(self, x: F32Array, weight: Matrix, out: F32Array) -> None: ...
    def rope(self, x: F32Array, positions: I32Array, theta: float, out: F32Array) -> None: ...
    def attention(
        self,
        q: F32Array,
        k: F32Array,
        v: F32Array,
        positions: I32Array,
        starts: I32Array,
        window: int | None,
        keys: NDArray[Any] | None,
        values: NDArray[Any] | None,
        table: I32Array | None,
        out: F32Array,
    ) -> None: ...
    def route(self, x: F32Array, router: Matrix, experts: I32Array, weights: F32Array, logits: F32Array) -> None: ...
    def moe(
        self, x: F32Array, experts: I32Array, weights: F32Array, all_experts: Sequence[Any], out: F32Array
    ) -> None: ...
    def moe_part(
        self,
        x: F32Array,
        experts: I32Array,
        all_experts: Sequence[Any],
        held: I32Array,
        partial: NDArray[np.float32],
    ) -> None: ...
    def moe_sum(self, experts: I32Array, weights: F32Array, partial: NDArray[np.float32], out: F32Array) -> None: ...
    def low_rank(self, x: F32Array, change: LowRank, slots: I32Array, out: F32Array) -> None:
        """Adds to out."""

    def swiglu(self, gate: F32Array, up: F32Array, out: F32Array) -> None: ...
    def quantize(
        self, matrix: Matrix, to: str, importance: F32Array | None, thorough: bool, out: NDArray[np.uint8]
    ) -> int:
        """Returns -1, or the first row that holds a number that is not finite."""

    def dequantize(self, matrix: Matrix, out: F32Array) -> None: ...
    def dequantize_bf16(self, matrix: Matrix, out: NDArray[np.uint16]) -> None: ...
    def round_block(
        self,
        targets: F32Array,
        weights: F32Array,
        spread: F32Array,
        costs: F32Array,
        to: str,
        out: NDArray[np.uint8],
        errors: F32Array,
    ) -> None: ...
    def read_bandwidth(self, n_bytes: int) -> float: ...
    def peaks(self) -> list[tuple[str, str, float]]:
        """Kind of number, instruction and 1e9 operations a second, of those that this machine has."""

    @property
    def kernel_seconds(self) -> float: ...

def formats() -> list[str]:
    """Names of the number formats that Matrix takes."""

def implementations() -> list[tuple[str, bool]]:
    """Names of the kernels, plainest first, and whether this machine can run them."""

def cpu_name() -> str: ...
def cpu_features() -> list[str]: ...
