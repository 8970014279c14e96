"""What the synthetic GGUF holds; writing one needs the gguf package and is what a run of the peers does."""

import numpy as np
import pytest

from ggml_blocks import BLOCKS
from octuor.config import MIXTRAL_8X7B
from synthetic_gguf import DIM, HIDDEN_DIM, N_EXPERTS, VOCAB_SIZE, Source, Tensor, tensors


def test_the_geometry_is_mixtral() -> None:
    rows = list(tensors("Q4_K", "Q6_K", 32))
    assert sum(int(np.prod(row.shape)) for row in rows) == MIXTRAL_8X7B.n_params
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) == 3 + 32 * 10
    assert (
        MIXTRAL_8X7B.dim,
        MIXTRAL_8X7B.hidden_dim,
        MIXTRAL_8X7B.n_experts,
        MIXTRAL_8X7B.vocab_size,
    ) == (DIM, HIDDEN_DIM, N_EXPERTS, VOCAB_SIZE)


def test_rows_are_whole_blocks() -> None:
    for row in tensors("IQ4_XS", "Q6_K", 1):
        if row.type_name != "F32":
            assert row.shape[-1] % BLOCKS[row.type_name].weights == 0, row


def test_experts_and_rows_differ() -> None:
    source = Source(seed=0)
    drawn = source.draw(Tensor("experts", (3, 64, 1024), "Q4_K", 0.1))
    assert drawn.shape == (3, 64, 4 * 144)
    assert drawn.dtype == np.uint8
    rows = drawn.reshape(-1, drawn.shape[-1])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_plain_tensors_are_float32() -> None:
    source = Source(seed=0)
    norm = source.draw(Tensor("norm", (8,), "F32", 0.25))
    np.testing.assert_array_equal(norm, np.full(8, 0.25, dtype=np.float32))
    router = source.draw(Tensor("router", (8, 4096), "F32", 1 / 64))
    assert router.dtype == np.float32
    assert float(np.sqrt(np.mean(router**2))) == pytest.approx(1 / 64, rel=0.05)  # 32,768 draws: 0.4 %
