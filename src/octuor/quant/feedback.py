"""Rounding with error feedback: what the rounding of one input loses, later inputs make up for.

    loss of a row = e H e^T    e [in]: its weights less what they are rounded to; H [in, in]: sum of x x^T over inputs x

With H = R R^T, R upper triangular, the loss is a sum over inputs j of R[j, j]^2 (e[j] + sum over i < j of
e[i] R[i, j] / R[j, j])^2. So inputs are rounded one after another, each not to its weight but to its target: the weight
and what the errors so far ask of it. That is GPTQ (Frantar et al. 2023, arXiv:2210.17323) in the form of LDLQ (Chee et
al. 2023, arXiv:2307.13304), which needs no inverse.

D comes from a search for each 256 inputs once their turn comes, s for each 16 inputs likewise; codes stay in a format's
own layout and order, so nothing is different at run time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.base import Array, Format, ceil_div
from octuor.quant.grouped import LAYOUTS, Grouped, choose_scales, nearest_codes, pack, unpack
from octuor.quant.int8_exact import GROUP, GROUPS, INPUTS, ROWS, pack_q8, reciprocal, unpack_q8
from octuor.quant.plain import from_bf16

F32Array = NDArray[np.float32]
# targets [out, 256], weights [out, 256], spread [256, 256], costs [256], format -> storage of one column of tiles,
# errors [out, 256]: round_block here, or NativeOps.round_block
RoundBlock = Callable[[F32Array, F32Array, F32Array, F32Array, Format], tuple[Array, F32Array]]

DAMPING = 0.02  # of H's mean diagonal, added to it: a text says little of inputs that it hardly uses
MOST_DAMPING = 10.0
# Steps of a bfloat16 from the D that a search finds: which of them leaves least, only rounding itself can say.
STEPS, STEPS_Q8 = (0, 3, -3), (0, 1, 2, 3, 4, 5, 6, -1)


def quantize_with_feedback(
    x: F32Array, row: Format, hessian: NDArray[np.floating], round_block: RoundBlock, *, damping: float = DAMPING
) -> Array:
    """The storage of x in a tiled format, with the least loss over the inputs that made the Hessian.

    x            [out, in] float32, finite
    hessian      [in, in], the sum (or mean) of x x^T over inputs x; or [n, b, b], its blocks along the diagonal, b a
                 multiple of 256: inputs of different blocks then do not make up for each other
    round_block  NativeOps.round_block, or the definition below

    A Hessian of zeros makes all inputs alike. Raises FormatError where weights or Hessian are not finite, or their
    shapes do not fit.
    """
    out, inputs = x.shape
    if not row.is_tiled or row.is_by_rows:
        raise FormatError(f"error feedback: expected a tiled format, found {row.name}")
    if not (finite := np.isfinite(x).all(axis=1)).all():
        raise FormatError(
            f"{row.name}: expected finite weights, found another in row {int(np.argmin(finite))}; "
            "is the checkpoint damaged?"
        )
    columns, width = ceil_div(inputs, INPUTS), _width(hessian, inputs)
    weights = np.zeros((out, columns * INPUTS), dtype=np.float32)
    weights[:, :inputs] = x
    targets = weights.copy()
    storage = np.empty((ceil_div(out, ROWS), columns, row.tile_bytes), dtype=np.uint8)
    for start in range(0, columns * INPUTS, width):
        spread, costs = _factor(_block(hessian, start, width, inputs), damping)
        end = start + len(costs)
        for at in range(start, end, INPUTS):
            here, own = slice(at, at + INPUTS), slice(at - start, at - start + INPUTS)
            storage[:, at // INPUTS : at // INPUTS + 1], errors = round_block(
                np.ascontiguousarray(targets[:, here]),
                np.ascontiguousarray(weights[:, here]),
                np.ascontiguousarray(spread[own, own]),
                costs[own],
                row,
            )
            targets[:, at + INPUTS : end] += errors @ spread[own, own.stop :]
    return storage


def round_block(
    targets: F32Array, weights: F32Array, spread: F32Array, costs: F32Array, row: Format
) -> tuple[Array, F32Array]:
    """Round 256 inputs in order: the definition, slow, of what the native kernels do.

    targets  [out, 256] what to round: the weights, and what errors of earlier inputs ask of them
    weights  [out, 256]
    spread   [256, 256] how much of input j's error is added to the target of input k > j
    costs    [256] above 0, how much a squared difference from the target counts
    returns  storage [ceil(out / 64), 1, tile_bytes], errors [out, 256]: weights less what they are rounded to
    """
    out, layout = len(targets), LAYOUTS.get(row.name)
    found = row.quantize(targets, costs, thorough=True)
    d = (unpack_q8(found)[0] if layout is None else unpack(layout, found)[0]).reshape(-1)  # [rows of tiles]
    s, q = np.ones((len(d), GROUPS), dtype=np.int8), np.zeros((len(d), INPUTS), dtype=np.int8)
    errors, least_loss = np.empty_like(targets), np.full(out, np.inf)
    searched = d[:out].copy()
    for steps in STEPS_Q8 if layout is None else STEPS:
        tried = _stepped(searched, steps)
        own_s, own_q, own_errors, loss = _round_under(layout, tried, targets, weights, spread, costs)
        better = loss < least_loss
        least_loss[better] = loss[better]
        d[:out][better], errors[better] = tried[better], own_errors[better]
        s[:out][better], q[:out][better] = own_s[better], own_q[better]
    tall = ceil_div(out, ROWS)
    d16 = (d.view(np.uint32) >> np.uint32(16)).astype(np.uint16).reshape(tall, 1, ROWS)
    codes = q.reshape(tall, 1, ROWS, INPUTS)
    storage = pack_q8(d16, codes) if layout is None else pack(layout, d16, s.reshape(tall, 1, ROWS, GROUPS), codes)
    return storage, errors


def _round_under(
    layout: Grouped | None, d: F32Array, targets: F32Array, weights: F32Array, spread: F32Array, costs: F32Array
) -> tuple[NDArray[np.int8], NDArray[np.int8], F32Array, F32Array]:
    """s [out, 16], q [out, 256], errors [out, 256] and the loss of each row under d [out]; no layout: q8."""
    targets, out = targets.copy(), len(targets)
    s, q = np.ones((out, GROUPS), dtype=np.int8), np.empty((out, INPUTS), dtype=np.int8)
    errors, loss = np.empty_like(targets), np.zeros(out, dtype=np.float32)
    for start in range(0, INPUTS, GROUP):
        group = slice(start, start + GROUP)
        if layout is not None:
            s[:, start // GROUP] = choose_scales(layout, targets[:, group], costs[group], d)
        own = s[:, start // GROUP].astype(np.float32)
        scale = own * d
        for j in range(start, start + GROUP):
            ideal = targets[:, j] * reciprocal(scale)
            code = np.rint(ideal).clip(-127, 127) if layout is None else nearest_codes(layout, own, ideal)
            q[:, j] = code
            loss += costs[j] * np.square(targets[:, j] - code * scale)
            errors[:, j] = weights[:, j] - code * scale
            targets[:, j + 1 :] += np.outer(errors[:, j], spread[j, j + 1 :])
    return s, q, errors, loss


def _stepped(d: F32Array, steps: int) -> F32Array:
    """So many steps of a bfloat16 away; 0 and the least numbers stay what they are."""
    moved = from_bf16(((d.view(np.uint32) >> np.uint32(16)).astype(np.int32) + steps).astype(np.uint16))
    return np.where(d < 1e-30, d, moved)


def _width(hessian: NDArray[np.floating], inputs: int) -> int:
    """Inputs of a block of the Hessian, whole tiles."""
    if hessian.shape == (inputs, inputs):
        return ceil_div(inputs, INPUTS) * INPUTS
    if hessian.ndim == 3:
        n, width, other = hessian.shape
        if width == other and width % INPUTS == 0 and n == ceil_div(inputs, max(width, 1)):
            return width
    raise FormatError(
        f"Hessian: expected [{inputs}, {inputs}], or blocks of it whose width is a multiple of {INPUTS}; "
        f"found {list(hessian.shape)}"
    )


def _block(hessian: NDArray[np.floating], start: int, width: int, inputs: int) -> NDArray[np.float64]:
    """The Hessian of inputs from start on, float64, zeros beyond the matrix."""
    known = min(width, inputs - start)
    block = np.zeros((ceil_div(known, INPUTS) * INPUTS,) * 2)
    block[:known, :known] = (hessian if hessian.ndim == 2 else hessian[start // width])[:known, :known]
    if not np.isfinite(block).all():
        raise FormatError(
            f"Hessian: expected finite numbers, found others among inputs {start} to {start + known - 1}; "
            "quantize without feedback where activations overflow"
        )
    return block


def _factor(block: NDArray[np.float64], damping: float) -> tuple[F32Array, F32Array]:
    """spread [n, n] = R[i, j] / R[j, j] and costs [n] = R[j, j]^2 of the damped H = R R^T, costs of mean about 1."""
    mean = np.diag(block).mean()
    if not mean > 0 or not np.isfinite(1 / mean):  # nothing was seen
        return np.eye(len(block), dtype=np.float32), np.ones(len(block), dtype=np.float32)
    relative = (block + block.T) / (2 * mean)
    while True:
        relative[np.diag_indices_from(relative)] += damping
        try:
            # Cholesky from the last input to the first makes R upper triangular.
            upper = np.linalg.cholesky(relative[::-1, ::-1])[::-1, ::-1]
            break
        except np.linalg.LinAlgError:  # not a sum of squares, to float64's rounding
            if damping > MOST_DAMPING:
                raise FormatError("Hessian: expected a sum of x x^T, found a matrix that is none") from None
            damping *= 10
    diagonal = np.diag(upper)
    return (upper / diagonal).astype(np.float32), np.square(diagonal).astype(np.float32)
