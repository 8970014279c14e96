"""EXL2 (ExLlamaV2): groups of inputs with 2, 3, 4, 5, 6 or 8 bits each, most important inputs first.

Everything lies input by input, in columns of outputs. Inputs are sorted by importance and cut into groups; codes of 32
inputs lie end to end in as many int32s as they have bits, input i of them at bit i * bits:

    data         int32 [rows, out]     groups below each other, all but the last of whole 32s of inputs
    q_groups     int16 [2 G]           each group's bits and first row
    q_scale      int32 [G, out / 8]    a nibble s for each output, the first in the lowest bits
    q_scale_max  float16 [G]
    q_invperm    int32 [in]            input -> its place in that order

    scale  = half((s + 1)^2 * half(q_scale_max / 256))
    weight = half((code - 2^(bits - 1)) * scale)

Files pad out to a multiple of 32; here the padding is cut off.

Source: ExLlamaV2, exllamav2_ext/cuda/q_matrix.cu (reconstruct_kernel), cuda/quant/qdq_*.cuh, cuda/pack_tensor.cu,
ext.py (make_q_matrix) and conversion/adaptivegptq.py (pack)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.plain import rounded

BITS = (2, 3, 4, 5, 6, 8)
WORD = 32  # bits, and inputs whose codes fill whole words


@dataclass(frozen=True)
class Group:
    """Inputs begin to end in the order of importance, `bits` each, packed from `row` of data on."""

    bits: int
    row: int
    begin: int
    end: int


@dataclass(frozen=True)
class Exl2:
    """Data and parts as the module has them."""

    name: str = "exl2"

    @property
    def row_multiple(self) -> int:
        """As in Storage: eight scales to an int32."""
        return 8

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage. Looks at q_groups, which is small, but not at q_invperm: `permutation_error` does."""
        if len(shape) != 2 or data.ndim != 2 or data.dtype != np.int32 or data.shape[1] != shape[0]:
            return f"expected int32 [rows, {shape[0]}], found {data.dtype} {list(data.shape)}"
        groups = parts.get("q_groups")
        if groups is None or groups.ndim != 1 or groups.dtype != np.int16 or len(groups) % 2 or not len(groups):
            return "expected q_groups int16 [2 * groups], found another"
        n = len(groups) // 2
        wanted = {
            "q_scale": (np.int32, [n, ceil_div(shape[0], 8)]),
            "q_scale_max": (np.float16, [n]),
            "q_invperm": (np.int32, [shape[1]]),
        }
        for name, (dtype, lengths) in wanted.items():
            part = parts.get(name)
            if part is None or part.dtype != dtype or list(part.shape) != lengths:
                found = "none" if part is None else f"{part.dtype} {list(part.shape)}"
                return f"expected {name} {np.dtype(dtype)} {lengths}, found {found}"
        return _groups_mismatch(groups, len(data), shape[1])

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage; views of columns."""
        cut = dict(parts) | {"q_scale": parts["q_scale"][:, start // 8 : ceil_div(stop, 8)]}
        return data[:, start:stop], cut

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage: what ExLlamaV2's reconstruct_kernel makes, bit for bit."""
        out, inputs = shape
        scales = _scales(parts["q_scale"], parts["q_scale_max"], out)
        numbers = np.empty((inputs, out), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are looked for by who reads them
            for run in _runs(read_groups(parts["q_groups"], inputs)):
                first, n = run[0].begin, run[-1].end - run[0].begin
                row = run[0].row
                codes = _unpack(data[row : row + ceil_div(n * run[0].bits, WORD)], run[0].bits, n)
                for group, scale in zip(run, scales, strict=False):
                    codes[group.begin - first : group.end - first] *= scale
                scales = scales[len(run) :]
                numbers[first : first + n] = rounded(codes, "f16")
        return np.ascontiguousarray(numbers[parts["q_invperm"]].T)


def read_groups(q_groups: Array, inputs: int) -> list[Group]:
    """The groups of a matrix whose q_groups `mismatch` has found right."""
    stated = q_groups.view(np.uint16).reshape(-1, 2).tolist()
    groups, begin = [], 0
    for (bits, row), after in zip(stated, [*stated[1:], None], strict=True):
        end = inputs if after is None else begin + (after[1] - row) * WORD // bits
        groups.append(Group(bits, row, begin, end))
        begin = end
    return groups


def _runs(groups: list[Group]) -> Iterator[list[Group]]:
    """Groups cut where bits change: what is packed end to end and read at once."""
    for _, run in groupby(groups, key=lambda group: group.bits):
        yield list(run)


def permutation_error(q_invperm: Array) -> str | None:
    """What is wrong with an order of inputs, as "expected ..., found ..."; None: nothing."""
    seen = np.zeros(len(q_invperm), dtype=np.bool_)
    within = (q_invperm >= 0) & (q_invperm < len(q_invperm))
    seen[q_invperm[within]] = True
    if seen.all():
        return None
    return f"expected q_invperm to order {len(q_invperm)} inputs, found {int(np.argmin(seen))} nowhere in it"


def _groups_mismatch(q_groups: Array, n_rows: int, inputs: int) -> str | None:
    """What is wrong with q_groups for data of n_rows and a matrix of `inputs`."""
    stated = q_groups.view(np.uint16).reshape(-1, 2)
    if (unknown := np.setdiff1d(stated[:, 0], BITS)).size:
        return f"expected groups of {', '.join(str(bits) for bits in BITS)} bits, found {unknown[0]}"
    rows = [*stated[:, 1].tolist(), n_rows]
    if rows[0] != 0 or any(after <= before for before, after in pairwise(rows)):
        return f"expected groups one below the other in {n_rows} rows, found them from {rows[:4]} on"
    groups = read_groups(q_groups, inputs)
    for group, end_row in zip(groups, rows[1:], strict=True):
        n_words = ceil_div((group.end - group.begin) * group.bits, WORD)
        is_whole = group.end == inputs or (end_row - group.row) % group.bits == 0
        if group.end <= group.begin or n_words != end_row - group.row or not is_whole:
            return (
                f"expected {inputs} inputs in its groups, found {end_row - group.row} rows of {group.bits} bits for "
                f"inputs {group.begin} to {group.end}"
            )
    return None


def _scales(q_scale: Array, q_scale_max: Array, out: int) -> NDArray[np.float32]:
    """float32 [G, out] of half precision."""
    shifts = np.arange(0, WORD, 4, dtype=np.int32)
    nibbles = (q_scale[:, :, None] >> shifts) & 15
    whole = nibbles.reshape(len(q_scale), -1)[:, :out].astype(np.float32) + 1
    with np.errstate(over="ignore", invalid="ignore"):
        largest = rounded(q_scale_max.astype(np.float32) * np.float32(1 / 256), "f16")
        return rounded(whole * whole * largest[:, None], "f16")


def _unpack(words: Array, bits: int, n: int) -> NDArray[np.float32]:
    """The first n codes of each column, less the code of zero: int32 [words, out] -> float32 [n, out]."""
    units = ceil_div(n, WORD)
    padded = np.zeros((units * bits, words.shape[1]), dtype=np.uint32)
    padded[: len(words)] = words.view(np.uint32)
    packed = padded.reshape(units, bits, words.shape[1])
    codes = np.empty((units, WORD, words.shape[1]), dtype=np.float32)
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        code = packed[:, word] >> np.uint32(shift)
        if shift + bits > WORD:
            code |= packed[:, word + 1] << np.uint32(WORD - shift)
        codes[:, i] = code & np.uint32((1 << bits) - 1)
    codes -= 1 << (bits - 1)
    return codes.reshape(units * WORD, -1)[:n]
