"""GPTQ and AWQ folders that gptqmodel wrote: our weights are its dequantizers' bit for bit; `make test-formats`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.samples import (
    assert_a_pack_keeps_the_weights,
    compare_weights,
    logits_error,
    our_logits,
    samples_in,
    write_samples,
)
from octuor.checkpoint import open_checkpoint
from toys import relative_error

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
HALF_TOLERANCE = 1e-2  # gptqmodel computes in float16
SAMPLES = (
    "gptq-2", "gptq-3", "gptq-3-order", "gptq-4-odd", "gptq-4-v2", "gptq-4-row", "gptq-8", "gptq-8-v2", "gptq-4-model",
    "gptq-4-model-order", "gptq-4-pocket", "awq-4-odd", "awq-4-row", "awq-4-model", "awq-4-pocket",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples("gptqmodel", tmp_path_factory.mktemp("gptqmodel"))


def test_every_sample_is_tested(folder: Path) -> None:
    assert samples_in(folder) == set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_weights_are_its_own_bit_for_bit(folder: Path, sample: str) -> None:
    assert compare_weights(folder / sample).weights == 0


@pytest.mark.parametrize("sample", SAMPLES)
def test_logits_are_those_of_transformers_with_its_weights(folder: Path, sample: str) -> None:
    assert logits_error(folder / sample) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("sample", ["gptq-4-model", "gptq-4-model-order", "awq-4-model"])
def test_logits_are_those_of_gptqmodel(folder: Path, sample: str) -> None:
    found = our_logits(open_checkpoint(folder / sample), np.load(folder / "tokens.npy").tolist())
    assert relative_error(found, np.load(folder / sample / "own_logits.npy")) <= HALF_TOLERANCE


@pytest.mark.parametrize("sample", ["gptq-4-pocket", "awq-4-pocket"])
def test_a_converted_folder_keeps_its_weights(folder: Path, sample: str, tmp_path: Path) -> None:
    assert_a_pack_keeps_the_weights(folder / sample, tmp_path / "whole.octuor")
