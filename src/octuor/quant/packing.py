"""What storages of other programs have in common: codes packed into words, scales for groups of inputs.

G groups of inputs. The results are those of the programs that define the formats: a code less its zero, times its
scale, rounded once to the scale's own number format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.base import Array
from octuor.quant.plain import from_bf16, to_bf16

F32Array = NDArray[np.float32]
I32, F16, BF16, F32 = np.dtype(np.int32), np.dtype(np.float16), np.dtype(np.uint16), np.dtype(np.float32)
CHUNK_WEIGHTS = 1 << 18  # at work at once, so that they stay in a cache
SCALES = (F16, BF16, F32)  # bfloat16 as bits, as everywhere


def unpack_bits(words: Array, bits: int, n: int) -> NDArray[np.uint8]:
    """The first n codes of each row of words: one stream of bits, lowest first, a code may straddle words.

    words  [rows, at least n * bits / 32] int32 or uint32, little-endian
    bits   1 to 8
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    codes = np.empty((len(octets), -(-n // 8), 8), np.uint8)  # eight codes lie in `bits` whole octets
    padded = np.zeros((len(octets), codes.shape[1] * bits), np.uint8)
    n_octets = min(octets.shape[1], padded.shape[1])
    padded[:, :n_octets] = octets[:, :n_octets]
    eights = padded.reshape(len(octets), -1, bits)
    mask = np.uint8((1 << bits) - 1)
    for k in range(8):
        octet, shift = divmod(k * bits, 8)
        code = eights[:, :, octet] >> np.uint8(shift)
        if shift + bits > 8:
            code |= eights[:, :, octet + 1] << np.uint8(8 - shift)
        codes[:, :, k] = code & mask
    return codes.reshape(len(octets), -1)[:, :n]


def widen(x: Array) -> F32Array:
    """Numbers of one of the dtypes in SCALES as float32, exactly."""
    return from_bf16(x) if x.dtype == BF16 else x.astype(np.float32, copy=False)


def round_as(x: F32Array, dtype: np.dtype) -> F32Array:
    """float32 rounded to one of the dtypes in SCALES, as float32."""
    if dtype == F32:
        return x
    if dtype == BF16:
        return from_bf16(to_bf16(x))
    with np.errstate(over="ignore"):  # infinity, as there
        return x.astype(np.float16).astype(np.float32)


def scale_groups(codes: Array, zeros: Array | None, scales: Array, group_size: int, groups: Array | None) -> F32Array:
    """(code - zero) * scale, rounded to the scales' number format.

    codes       [out, in] integers, up to 255 from their zeros
    zeros       [out, G] integers; None: 0
    scales      [out, G] of a dtype in SCALES
    group_size  inputs side by side that share a scale, the last group may be shorter
    groups      [in] group of each input; None: they lie side by side

    Raises FormatError where groups names one that is not there.
    """
    n_out, n_in = codes.shape
    spread = np.arange(n_in) // group_size if groups is None else groups
    if groups is not None and groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < scales.shape[1]:
        raise FormatError(
            f"g_idx: expected groups from 0 to {scales.shape[1] - 1}, found {int(groups.min())} to "
            f"{int(groups.max())}; download the file again"
        )
    is_regular = n_in % group_size == 0 and np.array_equal(spread, np.arange(n_in) // group_size)
    wide_scales = widen(scales)
    wide_zeros = np.zeros_like(wide_scales) if zeros is None else zeros.astype(np.float32)
    is_tame = _is_tame(wide_scales)
    values = np.empty(codes.shape, np.float32)
    step = max(CHUNK_WEIGHTS // max(n_in, 1), 1)
    for first in range(0, n_out, step):
        rows = slice(first, first + step)
        block = values[rows]
        block[...] = codes[rows]
        with np.errstate(invalid="ignore", over="ignore"):  # 0 * infinity in a damaged file
            if is_regular:
                by_group = block.reshape(len(block), -1, group_size)  # a view
                by_group -= wide_zeros[rows, :, None]
                by_group *= wide_scales[rows, :, None]
            else:
                block -= wide_zeros[rows][:, spread]
                block *= wide_scales[rows][:, spread]
        _round_in_place(block, scales.dtype, is_tame=is_tame)
    return values


def scale_blocks(x: F32Array, scale: Array, block: tuple[int, int]) -> F32Array:
    """Numbers times the scale of their block, rounded to the scales' number format.

    x      [out, in] float32, overwritten
    scale  [ceil(out / block[0]), ceil(in / block[1])] of a dtype in SCALES
    block  rows and inputs that share a scale; the last ones may be smaller
    """
    inputs = x.shape[1]
    wide = widen(scale)
    if wide.shape[1] > 1:
        wide = wide.repeat(block[1], axis=1)[:, :inputs]
    with np.errstate(invalid="ignore", over="ignore"):  # as above
        for i, row in enumerate(wide) if block[0] > 1 else ():
            x[i * block[0] : (i + 1) * block[0]] *= row
        if block[0] == 1:
            x *= wide
    # Codes are at most 448, and bfloat16 is float32's upper half, its smallest numbers too.
    is_tame = scale.dtype == BF16 and bool((np.abs(wide) < 2.0**100).all())
    _round_in_place(x, scale.dtype, is_tame=is_tame)
    return x


def _is_tame(scales: F32Array) -> bool:
    """Whether no product of these and 1 to 255 is infinite, NaN, or too small to have float16's full precision."""
    sizes = np.abs(scales)
    return bool((((sizes >= 2.0**-14) & (sizes <= 255)) | (sizes == 0)).all())


def _round_in_place(x: F32Array, dtype: np.dtype, *, is_tame: bool) -> None:
    """As round_as; where is_tame, by the bits: NumPy's conversions to float16 take five times as long."""
    if dtype == F32:
        return
    if not is_tame:
        x[...] = round_as(x, dtype)
        return
    bits, n_dropped = x.view(np.uint32), np.uint32(13 if dtype == F16 else 16)
    to_even = bits >> n_dropped
    to_even &= np.uint32(1)
    to_even += np.uint32((1 << int(n_dropped) - 1) - 1)
    bits += to_even
    bits &= ~np.uint32((1 << int(n_dropped)) - 1)


def wrong_array(name: str, array: Array | None, dtypes: Sequence[np.dtype], shape: tuple[int, ...]) -> str | None:
    """What is wrong with an array as "expected ..., found ..."; None: nothing."""
    if array is not None and array.dtype in dtypes and tuple(array.shape) == shape:
        return None
    wanted = f"{name}: expected {' or '.join(str(dtype) for dtype in dtypes)} {list(shape)}"
    return f"{wanted}, found " + ("none" if array is None else f"{array.dtype} {list(array.shape)}")
