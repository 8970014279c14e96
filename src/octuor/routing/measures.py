"""What is counted in routes: load of experts, repetition between neighbours, and what chance would give.

T tokens in reading order, L layers, A experts a token, E experts.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from octuor.errors import RequestError


def load(experts: NDArray[np.int16], n_experts: int, *, first_only: bool = False) -> NDArray[np.int64]:
    """How many tokens of experts [T, L, A] each expert plays in each layer, as any choice or the first: [L, E]."""
    n_layers = experts.shape[1]
    chosen = experts[:, :, :1] if first_only else experts
    places = chosen.astype(np.int64) + n_experts * np.arange(n_layers)[:, None]
    return np.bincount(places.ravel(), minlength=n_layers * n_experts).reshape(n_layers, n_experts)


def repeats(experts: NDArray[np.int16], choices: int) -> NDArray[np.bool_]:
    """Whether each token but the last shares one of its `choices` first experts with the token after it: [T - 1, L].

    Which of the choices it is on either side does not count, as in the Mixtral paper's Table 5.
    """
    here, after = experts[:-1, :, :choices, None], experts[1:, :, None, :choices]
    return (here == after).any(axis=(2, 3))


def random_repetition(n_experts: int, choices: int) -> float:
    """The share of neighbours that repeat if experts are drawn by lot: 1/8 for one of eight, 13/28 for two."""
    return 1 - comb(n_experts - choices, choices) / comb(n_experts, choices)


def check_choices(choices: int, n_chosen: int) -> None:
    """Raise RequestError where repetition is asked for over more choices than a token has."""
    if not 1 <= choices <= n_chosen:
        raise RequestError(f"choices: expected 1 to the {n_chosen} experts that play a token, found {choices}")
