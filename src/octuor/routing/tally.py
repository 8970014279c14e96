"""Counts over many routings, which need not be kept: what the Mixtral paper's figures are made of.

L layers, E experts, A experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octuor.config import ModelConfig
from octuor.routing import measures
from octuor.routing.values import Routing

Counts = NDArray[np.int64]


@dataclass
class Tally:
    """Counts over one kind of text.

    name      of the kind
    n_tokens  counted
    n_pairs   neighbours counted, of the same routing
    chosen    [A, L, E] tokens that each expert plays as first choice, second choice, ...
    repeated  [A, L] neighbours that share one of their first 1, 2, ... experts
    """

    name: str
    chosen: Counts
    repeated: Counts
    n_tokens: int = 0
    n_pairs: int = 0
    n_experts: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_experts = self.chosen.shape[2]

    @classmethod
    def empty(cls, name: str, config: ModelConfig) -> Tally:
        """Nothing counted yet, for routings of one model."""
        shape = (config.n_experts_per_token, config.n_layers)
        return cls(name, np.zeros((*shape, config.n_experts), np.int64), np.zeros(shape, np.int64))

    @classmethod
    def of(cls, routing: Routing, name: str = "text", *, skip: int = 0) -> Tally:
        """Those of one routing."""
        n_layers, n_chosen = routing.experts.shape[1:]
        chosen = np.zeros((n_chosen, n_layers, routing.n_experts), np.int64)
        tally = cls(name, chosen, np.zeros((n_chosen, n_layers), np.int64))
        tally.add(routing, skip=skip)
        return tally

    def add(self, routing: Routing, *, skip: int = 0) -> None:
        """Count one more routing. skip: leading tokens that do not count, as BOS, which every text has."""
        experts = routing.experts[skip:]
        self.n_tokens += len(experts)
        self.n_pairs += max(len(experts) - 1, 0)
        for choice in range(len(self.chosen)):
            self.chosen[choice] += measures.load(experts[:, :, choice : choice + 1], self.n_experts)
            self.repeated[choice] += measures.repeats(experts, choice + 1).sum(axis=0)

    @property
    def n_layers(self) -> int:
        """L."""
        return self.chosen.shape[1]

    @property
    def n_choices(self) -> int:
        """A."""
        return len(self.chosen)

    def share(self, choice: int | None = None) -> NDArray[np.float64]:
        """The share of each layer's assignments that went to each expert, [L, E]; each layer's sum is 1.

        choice  0: first choices alone, 1: second ones; None: all, as in the Mixtral paper's Figure 7
        """
        counts = self.chosen.sum(axis=0) if choice is None else self.chosen[choice]
        return counts / max(self.n_tokens * (self.n_choices if choice is None else 1), 1)

    def repetition(self, choices: int = 1) -> NDArray[np.float64]:
        """As Routing.repetition, over all neighbours that were counted, [L]; NaN where there were none."""
        measures.check_choices(choices, self.n_choices)
        if not self.n_pairs:
            return np.full(self.n_layers, np.nan)
        return self.repeated[choices - 1] / self.n_pairs

    def random_repetition(self, choices: int = 1) -> float:
        """As Routing.random_repetition."""
        measures.check_choices(choices, self.n_choices)
        return measures.random_repetition(self.n_experts, choices)
