"""The operations in C++: what Octuor runs on. Kernels for several instruction sets, chosen when an object is made.

T tokens, D dim, H query heads, K kv heads, C head_dim, E experts, A experts a token.
This file allocates results and calls octuor._native, which checks shapes and ranges; a wrong dtype or a
strided array is a TypeError, for nothing is ever converted silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.errors import BackendError, FormatError, ShapeError
from octuor.machine import Machine, read_machine
from octuor.ops import LayerRouting
from octuor.ops.decoded import decoded
from octuor.ops.layouts import layout, native_name
from octuor.quant import BF16, Format
from octuor.quant.base import Storage, relative_importance
from octuor.quant.plain import from_bf16
from octuor.weights import Expert, StreamedExperts, Weight

try:
    from octuor import _native
except ImportError as error:
    raise BackendError(
        f"native kernels: expected the compiled module octuor._native, found none ({error}); install octuor anew"
    ) from error

F32Array = NDArray[np.float32]

ISA_VARIABLE, PIN_VARIABLE = "OCTUOR_ISA", "OCTUOR_PIN"
PROBE_BYTES = 1 << 30  # much more than any cache


def implementations() -> tuple[str, ...]:
    """Names of the instruction sets whose kernels this machine can run, plainest first."""
    return tuple(name for name, supported in _native.implementations() if supported)


def choose_isa(isa: str | None) -> str:
    """`isa`, else what the environment's OCTUOR_ISA names, else the fastest here; BackendError if it is not here."""
    here = implementations()
    wanted = isa or os.environ.get(ISA_VARIABLE)
    if wanted is None or wanted == "":
        if not here:
            raise BackendError("native kernels: expected at least SSE4.2, found a CPU without; use backend reference")
        return here[-1]
    if wanted not in here:
        raise BackendError(f"instruction set: expected one that this machine has, {', '.join(here)}; found {wanted!r}")
    return wanted


def pin_order(machine: Machine, n_threads: int) -> tuple[int, ...]:
    """A CPU for each thread: performance cores first, then other cores, then their second hardware threads."""
    order = tuple(dict.fromkeys((*machine.performance, *machine.cores, *machine.cpus)))
    if n_threads > len(order):
        raise BackendError(
            f"pin: expected at most {len(order)} threads, one for each CPU, found {n_threads}; ask fewer"
        )
    return order[:n_threads]


def runs_in_place(storage: Storage) -> bool:
    """Whether the kernels read a matrix as it is stored; otherwise NativeOps.put decodes it into memory."""
    return isinstance(storage, Format) or native_name(storage) in _native.formats()


class NativeOps:
    """The Ops of the C++ kernels. Calls from several threads are taken one after the other.

    isa      an instruction set of implementations(); None: OCTUOR_ISA, else the fastest
    threads  that share each call; None: as machine.read_machine chooses
    pin      keep each thread on a CPU of its own, but for the caller's; None: whether OCTUOR_PIN is 1

    Raises BackendError for what this machine does not have.
    """

    def __init__(self, isa: str | None = None, threads: int | None = None, *, pin: bool | None = None) -> None:
        self.isa = choose_isa(isa)
        machine = read_machine()
        n_threads = machine.threads if threads is None else threads
        is_pinned = os.environ.get(PIN_VARIABLE) == "1" if pin is None else pin
        cpus = pin_order(machine, n_threads) if is_pinned else ()
        self._context = _native.Context(self.isa, n_threads, cpus)

    @property
    def threads(self) -> int:
        """Threads that share each call."""
        return self._context.n_threads

    def put(self, weight: Weight) -> Any:
        """A matrix as it lies, without a copy, mapped or not; a vector as float32.

        A matrix in a storage that `runs_in_place` does not know is copied, as ops.decoded has it.
        """
        if len(weight.shape) == 1:
            return np.ascontiguousarray(weight.to_f32(), dtype=np.float32)
        return _matrix(weight if runs_in_place(weight.format) else decoded(weight))

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return np.zeros(shape, dtype=np.float16 if dtype == "f16" else np.float32)

    def to_numpy(self, x: F32Array) -> F32Array:
        return x

    def embed(self, tokens: NDArray[np.int32], weight: _native.Matrix) -> F32Array:
        out = np.empty((len(tokens), weight.shape[1]), dtype=np.float32)
        self._context.embed(weight, tokens, out)
        return out

    def rms_norm(self, x: F32Array, weight: F32Array, eps: float) -> F32Array:
        out = np.empty(x.shape, dtype=np.float32)
        self._context.rms_norm(x, weight, eps, out)
        return out

    def linear(self, x: F32Array, weight: _native.Matrix) -> F32Array:
        out = np.empty((x.shape[0], weight.shape[0]), dtype=np.float32)
        self._context.linear(x, weight, out)
        return out

    def rope(self, x: F32Array, positions: NDArray[np.int32], theta: float) -> F32Array:
        out = np.empty(x.shape, dtype=np.float32)
        self._context.rope(x, positions, theta, out)
        return out

    def attention(
        self, q: F32Array, k: F32Array, v: F32Array, batch: Batch, layer: int, window: int | None
    ) -> F32Array:
        out = np.empty(q.shape, dtype=np.float32)
        keys = values = table = None
        if batch.cache is not None:
            keys, values, table = batch.cache.keys[layer], batch.cache.values[layer], batch.table
        self._context.attention(q, k, v, batch.positions, batch.starts, window, keys, values, table, out)
        return out

    def route(self, x: F32Array, router: _native.Matrix | None, n_chosen: int) -> LayerRouting:
        n_tokens = x.shape[0]
        if router is None:
            ones = np.ones((n_tokens, 1), dtype=np.float32)
            return LayerRouting(np.zeros((n_tokens, 1), dtype=np.int32), ones, np.zeros_like(ones))
        routing = LayerRouting(
            np.empty((n_tokens, n_chosen), dtype=np.int32),
            np.empty((n_tokens, n_chosen), dtype=np.float32),
            np.empty((n_tokens, router.shape[0]), dtype=np.float32),
        )
        self._context.route(x, router, *routing)
        return routing

    def moe(self, x: F32Array, routing: LayerRouting, experts: Sequence[Expert]) -> F32Array:
        """As in Ops; experts[e] is asked for only where a token has chosen e."""
        out = np.empty(x.shape, dtype=np.float32)
        if isinstance(experts, StreamedExperts):
            self._moe_streamed(x, routing, experts, out)
        else:
            self._context.moe(x, routing.experts, routing.weights, experts, out)
        return out

    def _moe_streamed(self, x: F32Array, routing: LayerRouting, experts: StreamedExperts, out: F32Array) -> None:
        """Experts as they come into memory, each one's results kept apart and added in the order of their numbers."""
        n_used = len(np.unique(routing.experts))
        partial: F32Array | None = None
        with closing(experts.visit(routing.experts)) as groups:
            for held in groups:
                if len(held) == n_used:
                    self._context.moe(x, routing.experts, routing.weights, experts, out)
                    return
                if partial is None:
                    partial = np.empty((*routing.experts.shape, x.shape[1]), dtype=np.float32)
                self._context.moe_part(x, routing.experts, experts, held, partial)
        if partial is not None:
            self._context.moe_sum(routing.experts, routing.weights, partial, out)

    def low_rank(self, x: F32Array, change: _native.LowRank, slots: NDArray[np.int32], out: F32Array) -> None:
        """Add to out [T, out] what the change in each token's slot makes of x [T, in]; none where that is negative."""
        self._context.low_rank(x, change, slots, out)

    def swiglu(self, gate: F32Array, up: F32Array) -> F32Array:
        """silu(gate) * up, [T, F]."""
        out = np.empty(gate.shape, dtype=np.float32)
        self._context.swiglu(gate, up, out)
        return out

    def dequantize(self, weight: Weight) -> F32Array:
        """The values of a matrix [out, in], on all threads; to the last bit what weight.to_f32() gives."""
        if len(weight.shape) != 2 or not runs_in_place(weight.format):
            return weight.to_f32()
        out = np.empty(weight.shape, dtype=np.float32)
        self._context.dequantize(_matrix(weight), out)
        return out

    def dequantize_bf16(self, weight: Weight) -> NDArray[np.uint16]:
        """The same, rounded to bfloat16 as the row BF16 does."""
        if len(weight.shape) != 2 or not runs_in_place(weight.format):
            return BF16.quantize(weight.to_f32())
        out = np.empty(weight.shape, dtype=np.uint16)
        self._context.dequantize_bf16(_matrix(weight), out)
        return out

    def quantize(
        self, x: NDArray[Any], row: Format, importance: F32Array | None = None, *, thorough: bool = False
    ) -> NDArray[Any]:
        """Weights to the storage of a format, on all threads for the tiled ones.

        x           [out, in] float32, float16, or uint16 holding bfloat16 (the last two for tiled formats only)
        importance  [in] float32, how much the squared error of each input's weights counts; None: all alike
        thorough    search for a slightly smaller error, several times as long
        returns     row.storage_shape(x.shape), row.dtype

        Raises FormatError, naming the row, where a tiled format meets a number that is not finite, and where an
        importance is not [in] or not finite and at least 0.
        """
        if not row.is_tiled:
            return row.quantize(x)
        if row.is_by_rows:
            wide = from_bf16(x) if x.dtype == np.uint16 else np.asarray(x, dtype=np.float32)
            return row.quantize(wide, importance, thorough=thorough)
        relative = None if importance is None else relative_importance(importance, x.shape[1])
        out = np.empty(row.storage_shape(x.shape), dtype=row.dtype)
        source = {"f": "f32", "e": "f16", "H": "bf16"}.get(x.dtype.char, x.dtype.name)
        bad_row = self._context.quantize(_native.Matrix(x, x.shape, source), row.name, relative, thorough, out)
        if bad_row >= 0:
            raise FormatError(
                f"{row.name}: expected finite weights, found another in row {bad_row}; is the checkpoint damaged?"
            )
        return out

    def round_block(
        self, targets: F32Array, weights: F32Array, spread: F32Array, costs: F32Array, row: Format
    ) -> tuple[NDArray[np.uint8], F32Array]:
        """As in quant/feedback.py, on all threads."""
        storage = np.empty(row.storage_shape(targets.shape), dtype=np.uint8)
        errors = np.empty(targets.shape, dtype=np.float32)
        self._context.round_block(targets, weights, spread, costs, row.name, storage, errors)
        return storage, errors

    def read_bandwidth_gb_s(self, n_bytes: int = PROBE_BYTES) -> float:
        """GB/s (1e9 bytes) at which all threads together read memory from end to end."""
        return self._context.read_bandwidth(n_bytes)

    def peaks(self) -> dict[str, tuple[str, float]]:
        """ "int8", "f32", "bf16" -> the set's best instruction for it and the 1e9 operations a second it reaches."""
        return {kind: (instruction, rate) for kind, instruction, rate in self._context.peaks()}

    @property
    def kernel_seconds(self) -> float:
        """Seconds that all calls so far have spent in kernels: without Python, bindings and waiting for a turn."""
        return self._context.kernel_seconds


def _matrix(weight: Weight) -> _native.Matrix:
    """A weight that runs in place, where it lies."""
    data, name = weight.data, weight.format.name
    if isinstance(weight.format, Format) and weight.format.is_by_rows and data.ndim == 3:
        data = data.reshape(data.shape[0], -1)
    if data.flags.c_contiguous and data.ndim <= 3 and not weight.parts:
        return _native.Matrix(data, weight.shape, name)
    if native_name(weight.format) is None:
        raise ShapeError(f"{weight.name or 'weight'}: expected its rows one after the other, found a strided array")
    found = layout(weight)
    try:
        return _native.Matrix(found.data, weight.shape, found.name, dict(found.parts), dict(found.numbers))
    except FormatError as error:
        raise FormatError(f"{weight.name or 'weight'}: {error}") from error


def quantizer(threads: int | None = None) -> Callable[[NDArray[np.float32], Format], NDArray[Any]]:
    """NativeOps.quantize on that many threads; None: as NativeOps chooses."""
    return NativeOps(threads=threads).quantize


def read_bandwidth_gb_s(threads: int | None = None, n_bytes: int = PROBE_BYTES) -> float:
    """GB/s at which that many threads read memory: the limit of answers."""
    return NativeOps(threads=threads).read_bandwidth_gb_s(n_bytes)


def machine_report() -> dict[str, Any]:
    """The CPU, its features, the threads, and the kernels: what is here and what would be chosen; JSON values."""
    chosen = choose_isa(None)
    machine = read_machine()
    return {
        "cpu": _native.cpu_name(),
        "features": _native.cpu_features(),
        "cpus": len(machine.cpus),
        "cores": len(machine.cores),
        "performance_cores": len(machine.performance),
        "numa_nodes": [list(node) for node in machine.nodes],
        "quota": machine.quota,
        "threads": machine.threads,
        "threads_reason": machine.reason,
        "kernels": [
            {"name": name, "supported": supported, "chosen": name == chosen}
            for name, supported in _native.implementations()
        ],
    }
