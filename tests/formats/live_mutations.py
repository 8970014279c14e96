"""Thousands of damaged folders of each quantization: one line of error or numbers, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoint.schemes.checks import refusal
from checkpoint.schemes.mutations import SCHEMES, damage, sound

N = 3000


@pytest.mark.parametrize("scheme", SCHEMES)
def test_damage_is_refused_or_harmless(scheme: str, tmp_path: Path) -> None:
    n_refused = 0
    for seed in range(N):
        folder = sound(scheme)
        damage(folder, np.random.default_rng([9, seed]))
        message = refusal(folder, tmp_path / "model")
        assert "\n" not in message, seed
        n_refused += message != ""
    assert N / 4 < n_refused < N  # the damage is real, and not all of it fatal
