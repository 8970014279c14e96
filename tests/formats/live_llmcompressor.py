"""compressed-tensors folders that llm-compressor wrote: what it reads back, bit for bit; `make test-formats`."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.samples import assert_a_pack_keeps_the_weights, compare_weights, logits_error, samples_in, write_samples

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
SAMPLES = (
    "w4a16", "w4a16-asym", "w4a16-gptq", "w8a16", "w4-group-32", "w3-channel", "w8a8", "fp8-dynamic", "fp8",
    "fp8-block", "fp8-block-odd", "w4a16-pocket", "w8a8-pocket", "fp8-pocket",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples("llmcompressor", tmp_path_factory.mktemp("llmcompressor"))


def test_every_sample_is_tested(folder: Path) -> None:
    assert samples_in(folder) == set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_weights_are_what_compressed_tensors_decompresses(folder: Path, sample: str) -> None:
    assert compare_weights(folder / sample).weights == 0


@pytest.mark.parametrize("sample", SAMPLES)
def test_logits_are_those_of_transformers_with_its_weights(folder: Path, sample: str) -> None:
    assert logits_error(folder / sample) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("sample", ["w4a16-pocket", "w8a8-pocket", "fp8-pocket"])
def test_a_converted_folder_keeps_its_weights(folder: Path, sample: str, tmp_path: Path) -> None:
    assert_a_pack_keeps_the_weights(folder / sample, tmp_path / "whole.octuor")
