"""Damaged folders are refused with one line or hold numbers; tests/formats/live_mutations.py tries thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint.schemes.checks import refusal
from checkpoint.schemes.mutations import SCHEMES, damage, sound


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_damage_there_is_nothing_to_refuse(scheme: str, tmp_path: Path) -> None:
    assert refusal(sound(scheme), tmp_path / "model") == ""


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damage_is_refused_or_harmless(scheme: str, tmp_path: Path, seed: int) -> None:
    folder = sound(scheme)
    damage(folder, np.random.default_rng(seed))
    assert "\n" not in refusal(folder, tmp_path / "model")
