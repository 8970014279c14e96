"""Low-rank changes and SwiGLU in every instruction set against NumPy, at lengths around their vectors."""

import numpy as np
import pytest

from octuor import _native
from octuor.errors import OctuorError
from octuor.ops.native import NativeOps, implementations
from octuor.ops.reference import silu
from toys import F32Array, relative_error

SIZES = [(1, 1, 1), (3, 7, 2), (64, 40, 8), (129, 515, 9), (1024, 2049, 33)]  # inputs, outputs, rank


def draw(*shape: int) -> F32Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=implementations())
def ops(request: pytest.FixtureRequest) -> NativeOps:
    return NativeOps(isa=request.param, threads=2)


@pytest.mark.parametrize(("inputs", "outputs", "rank"), SIZES)
@pytest.mark.parametrize("n_tokens", [1, 2, 19])
def test_each_token_gets_its_slots_change(ops: NativeOps, inputs: int, outputs: int, rank: int, n_tokens: int) -> None:
    pairs = [(draw(rank, inputs), draw(rank, outputs)), None, (draw(rank + 3, inputs), draw(rank + 3, outputs))]
    change = _native.LowRank(pairs, outputs, inputs)
    x, before = draw(n_tokens, inputs), draw(n_tokens, outputs)
    slots = (np.arange(n_tokens) % 4 - 1).astype(np.int32)  # none, the first, the empty one, the last
    found = before.copy()
    ops.low_rank(x, change, slots, found)
    for t, slot in enumerate(slots.tolist()):
        pair = None if slot < 0 else pairs[slot]
        if pair is None:
            assert np.array_equal(found[t], before[t])
        else:
            expected = before[t].astype(np.float64) + (x[t].astype(np.float64) @ pair[0].T) @ pair[1]
            assert relative_error(found[t : t + 1], expected[None].astype(np.float32)) < 1e-6
    for t in range(n_tokens):  # to the last bit, whoever is beside it
        alone = before[t : t + 1].copy()
        ops.low_rank(x[t : t + 1].copy(), change, slots[t : t + 1].copy(), alone)
        assert np.array_equal(alone[0], found[t])


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 4099), (40, 1000)])
def test_swiglu(ops: NativeOps, shape: tuple[int, int]) -> None:
    gate, up = 8 * draw(*shape), draw(*shape, 1)[..., 0]
    assert relative_error(ops.swiglu(gate, up), silu(gate) * up) < 1e-6


def test_shapes_and_slots_are_checked() -> None:
    ops = NativeOps(threads=1)
    change = _native.LowRank([(draw(2, 5), draw(2, 7))], 7, 5)
    x, out = draw(3, 5), draw(3, 7)
    with pytest.raises(OctuorError, match="slots: expected less than 1, found 1"):
        ops.low_rank(x, change, np.ones(3, np.int32), out)
    with pytest.raises(OctuorError, match="slots"):
        ops.low_rank(x, change, np.zeros(2, np.int32), out)
    with pytest.raises(OctuorError, match="x"):
        ops.low_rank(draw(3, 6), change, np.zeros(3, np.int32), out)
    with pytest.raises(OctuorError, match="b"):
        _native.LowRank([(draw(2, 5), draw(3, 7))], 7, 5)
