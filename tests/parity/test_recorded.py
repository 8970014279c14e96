"""Octuor against recorded outputs of transformers: 40 random geometries, every backend that needs no torch."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from octuor.config import ModelConfig
from octuor.ops.reference import ReferenceOps
from parity.cases import CASES, N_GREEDY, RECORDED, SEED, Case
from parity.checks import LOGIT_TOLERANCE, Expected, check_greedy, check_logits, toy
from toys import BACKENDS, Toy, leaves, make_backend, relative_error

MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(RECORDED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def made_by(recorded: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(str(recorded["made_by"]))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_greedy_tokens_agree_with_transformers(case: Case, backend: str, recorded: dict[str, Any]) -> None:
    expected = Expected(recorded[f"logits.{case.index}"], recorded[f"tokens.{case.index}"])
    found = toy(make_backend(backend), case)
    check_logits(found, case, expected)
    check_greedy(found, case, expected)


def test_recording_is_of_these_cases(made_by: dict[str, Any]) -> None:
    """A change of the cases, or of NumPy's random numbers, asks for `python tests/parity/record.py`."""
    assert made_by["seed"] == SEED
    assert made_by["draws"] == [case.draw for case in CASES]
    assert made_by["greedy_tokens"] == N_GREEDY
    assert made_by["checksums"] == [case.checksum for case in CASES]


def test_recording_is_small_and_says_what_made_it(made_by: dict[str, Any]) -> None:
    assert RECORDED.stat().st_size <= MAX_BYTES
    assert {"transformers", "torch", "numpy"} <= made_by.keys()


FEATURES: dict[str, Callable[[ModelConfig], bool]] = {
    "dense, full": lambda c: c.is_dense and c.sliding_window is None,
    "dense, window": lambda c: c.is_dense and c.sliding_window is not None,
    "mixture, full": lambda c: not c.is_dense and c.sliding_window is None,
    "mixture, window": lambda c: not c.is_dense and c.sliding_window is not None,
    "one expert a token": lambda c: not c.is_dense and c.n_experts_per_token == 1,
    "four experts a token": lambda c: c.n_experts_per_token == 4,
    "all experts": lambda c: not c.is_dense and c.n_experts_per_token == c.n_experts,
    "two experts": lambda c: c.n_experts == 2,
    "eight experts": lambda c: c.n_experts == 8,
    "odd dim": lambda c: c.dim % 2 == 1,
    "odd hidden_dim": lambda c: c.hidden_dim % 2 == 1,
    "odd vocab_size": lambda c: c.vocab_size % 2 == 1,
    "grouped queries": lambda c: 1 < c.n_kv_heads < c.n_heads,
    "a kv head for each": lambda c: 1 < c.n_kv_heads == c.n_heads,
    "one kv head": lambda c: c.n_kv_heads == 1 < c.n_heads,
    "head_dim is dim / n_heads": lambda c: c.n_heads * c.head_dim == c.dim,
    "head_dim is not": lambda c: c.n_heads * c.head_dim != c.dim,
    "half of head_dim odd": lambda c: c.head_dim % 4 == 2,
    "theta 1e4": lambda c: c.rope_theta == 1e4,
    "theta 1e6": lambda c: c.rope_theta == 1e6,
    "three layers": lambda c: c.n_layers == 3,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_cases_cover(feature: str) -> None:
    assert sum(FEATURES[feature](case.config) for case in CASES) >= 2


CHANGES: dict[str, Callable[[ModelConfig], Any]] = {
    "rope_theta": lambda c: c.rope_theta * 2,
    "norm_eps": lambda c: c.norm_eps * 1e4,
    "sliding_window": lambda c: 2 if c.sliding_window is None else None,
    "n_experts_per_token": lambda c: c.n_experts_per_token % c.n_experts + 1,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_wrong_constant_would_be_seen(field: str, recorded: dict[str, Any]) -> None:
    """The tolerance is not wide enough to hide any of these."""
    for case in CASES:
        if field == "n_experts_per_token" and case.config.n_experts == 1:
            continue
        config = replace(case.config, **{field: CHANGES[field](case.config)})
        found = Toy(ReferenceOps(), config, leaves(case.values)).alone(case.prompt)
        assert relative_error(found, recorded[f"logits.{case.index}"]) > 10 * LOGIT_TOLERANCE, case.name
