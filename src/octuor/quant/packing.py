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

    codes       [out, in] integers
    zeros       [out, G] integers; None: 0
    scales      [out, G] of a dtype in SCALES
    group_size  inputs side by side that share a scale, the last group may be shorter
    groups      [in] group of each input where they do not lie side by side; then group_size is not looked at

    Raises FormatError where groups names one that is not there.
    """
    n_groups = scales.shape[1]
    if groups is not None:
        if groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < n_groups:
            raise FormatError(
                f"g_idx: expected groups from 0 to {n_groups - 1}, found {int(groups.min())} to {int(groups.max())}; "
                "download the file again"
            )
        if not np.array_equal(groups, np.arange(groups.size) // group_size):
            return _scale(codes, None if zeros is None else zeros[:, groups], scales[:, groups])
    whole = codes.shape[1] // group_size * group_size
    wide = np.empty(codes.shape, np.float32)
    cuts = [(0, whole, group_size, 0), (whole, codes.shape[1], codes.shape[1] - whole, whole // group_size)]
    for start, stop, size, group in cuts:
        if start == stop:
            continue
        own = slice(group, group + (stop - start) // size)
        part = codes[:, start:stop].reshape(len(codes), -1, size)
        zero = None if zeros is None else zeros[:, own, None]
        wide[:, start:stop] = _scale(part, zero, scales[:, own, None]).reshape(len(codes), -1)
    return wide


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
    with np.errstate(invalid="ignore", over="ignore"):  # as in _scale
        for i, row in enumerate(wide) if block[0] > 1 else ():
            x[i * block[0] : (i + 1) * block[0]] *= row
        if block[0] == 1:
            x *= wide
    return round_as(x, scale.dtype)


def _scale(codes: Array, zeros: Array | None, scales: Array) -> F32Array:
    wide = codes.astype(np.float32)
    if zeros is not None:
        wide -= zeros
    with np.errstate(invalid="ignore", over="ignore"):  # 0 * infinity in a damaged file
        wide *= widen(scales)
    return round_as(wide, scales.dtype)


def wrong_array(name: str, array: Array | None, dtypes: Sequence[np.dtype], shape: tuple[int, ...]) -> str | None:
    """What is wrong with an array as "expected ..., found ..."; None: nothing."""
    if array is not None and array.dtype in dtypes and tuple(array.shape) == shape:
        return None
    wanted = f"{name}: expected {' or '.join(str(dtype) for dtype in dtypes)} {list(shape)}"
    return f"{wanted}, found " + ("none" if array is None else f"{array.dtype} {list(array.shape)}")
