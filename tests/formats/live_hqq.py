"""Folders that hqq wrote, new and old, its own and transformers': our weights are its own bit for bit; `make
test-formats`."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.samples import assert_a_pack_keeps_the_weights, compare_weights, logits_error, samples_in, write_samples

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
PROGRAMS = {
    "hqq": (
        "hqq-8", "hqq-8-axis-0", "hqq-6", "hqq-5-axis-0", "hqq-4", "hqq-4-axis-0", "hqq-4-rows", "hqq-4-columns",
        "hqq-4-odd", "hqq-4-across-rows", "hqq-4-as-float", "hqq-4-own", "hqq-4-3", "hqq-4-pocket", "hqq-3",
        "hqq-3-axis-0-odd", "hqq-3-as-float", "hqq-2", "hqq-2-axis-0", "hqq-1.58", "hqq-1", "hqq-1-axis-0",
    ),
    "hqq_older": ("hqq-4-nested", "hqq-2-nested-axis-0", "hqq-3-nested-zeros"),
}  # fmt: skip
SAMPLES = [(program, sample) for program, samples in PROGRAMS.items() for sample in samples]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        program: write_samples(program, tmp_path_factory.mktemp(program), pocket=program == "hqq")
        for program in PROGRAMS
    }


def test_every_sample_is_tested(folders: dict[str, Path]) -> None:
    for program, folder in folders.items():
        assert samples_in(folder) == set(PROGRAMS[program])


@pytest.mark.parametrize(("program", "sample"), SAMPLES)
def test_weights_are_its_own_bit_for_bit(folders: dict[str, Path], program: str, sample: str) -> None:
    assert compare_weights(folders[program] / sample).weights == 0


@pytest.mark.parametrize(("program", "sample"), SAMPLES)
def test_logits_are_those_of_transformers_with_its_weights(folders: dict[str, Path], program: str, sample: str) -> None:
    assert logits_error(folders[program] / sample) <= LOGIT_TOLERANCE


@pytest.mark.parametrize(
    ("program", "sample"), [("hqq", "hqq-4-pocket"), ("hqq", "hqq-3-axis-0-odd"), ("hqq_older", "hqq-4-nested")]
)
def test_a_converted_folder_keeps_its_weights(
    folders: dict[str, Path], program: str, sample: str, tmp_path: Path
) -> None:
    assert_a_pack_keeps_the_weights(folders[program] / sample, tmp_path / "whole.octuor")
