"""FP8 folders that transformers quantized: our weights are what it dequantizes, bit for bit; `make test-formats`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.samples import (
    compare_weights,
    logits_error,
    our_logits,
    samples_in,
    write_samples,
)
from octuor.checkpoint import open_checkpoint
from toys import relative_error

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
OWN_TOLERANCE = 2e-3  # transformers rounds dequantized weights to the model's float16
SAMPLES = ("fp8-blocks", "fp8-small-blocks", "fp8-matrix", "fp8-blocks-pocket")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples("transformers", tmp_path_factory.mktemp("transformers"))


def test_every_sample_is_tested(folder: Path) -> None:
    assert samples_in(folder) == set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_weights_are_its_own_bit_for_bit(folder: Path, sample: str) -> None:
    assert compare_weights(folder / sample).weights == 0


@pytest.mark.parametrize("sample", SAMPLES)
def test_logits_are_those_of_transformers(folder: Path, sample: str) -> None:
    assert logits_error(folder / sample) <= LOGIT_TOLERANCE
    found = our_logits(open_checkpoint(folder / sample), np.load(folder / "tokens.npy").tolist())
    assert relative_error(found, np.load(folder / sample / "own_logits.npy")) <= OWN_TOLERANCE
