"""Thousands of PyTorch files with bytes changed: read or refused, within the file's memory; `make test-robust`."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import pytest

from checkpoint.torch_mutations import mutate, open_and_read

SAMPLES = Path(__file__).parents[1] / "checkpoint" / "samples"
N_MUTATIONS = 20_000
GROWTH_BYTES = 64 << 20
LONGEST_S = 2.0  # of processor time: the machine may be busy


@pytest.mark.parametrize("name", ["torch_2_13.pt", "torch_2_13_legacy.pt"])
def test_mutations(name: str, tmp_path: Path) -> None:
    data, rng = (SAMPLES / name).read_bytes(), random.Random(11)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_opened = 0
    for _ in range(N_MUTATIONS):
        began = time.process_time()
        n_opened += open_and_read(mutate(data, rng), tmp_path / "x.pt")
        assert time.process_time() - began < LONGEST_S
    assert 0 < n_opened < N_MUTATIONS  # some changes are of numbers, most are of what says where they are
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH_BYTES
