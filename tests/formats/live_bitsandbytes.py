"""Folders that bitsandbytes wrote, through transformers and by itself: our weights are its own bit for bit; `make
test-formats`."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.samples import assert_a_pack_keeps_the_weights, compare_weights, logits_error, samples_in, write_samples

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
SAMPLES = (
    "nf4", "nf4-nested", "nf4-nested-odd", "nf4-stored-bf16", "fp4", "fp4-nested-odd", "int8", "int8-odd", "nf4-pocket",
    "nf4-blocks-32", "nf4-blocks-128", "nf4-blocks-512", "nf4-blocks-2048", "nf4-blocks-4096",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples("bitsandbytes", tmp_path_factory.mktemp("bitsandbytes"))


def test_every_sample_is_tested(folder: Path) -> None:
    assert samples_in(folder) == set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_weights_are_its_own_bit_for_bit(folder: Path, sample: str) -> None:
    assert compare_weights(folder / sample).weights == 0


@pytest.mark.parametrize("sample", SAMPLES)
def test_logits_are_those_of_transformers_with_its_weights(folder: Path, sample: str) -> None:
    assert logits_error(folder / sample) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("sample", ["nf4-pocket", "nf4-nested-odd", "int8-odd"])
def test_a_converted_folder_keeps_its_weights(folder: Path, sample: str, tmp_path: Path) -> None:
    assert_a_pack_keeps_the_weights(folder / sample, tmp_path / "whole.octuor")
