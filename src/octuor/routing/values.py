"""Routes as values: of some tokens, and of a whole text with its probabilities.

T tokens, L layers, A experts a token (best first), E experts, K alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octuor.errors import ShapeError
from octuor.routing import measures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class TokenRoutes:
    """Which experts played some tokens, in every layer. Equal where every bit is.

    experts  [T, L, A] int16, best first
    weights  [T, L, A] float32, of each token and layer with sum 1
    """

    experts: NDArray[np.int16]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.experts)

    def __getitem__(self, tokens: slice) -> TokenRoutes:
        return TokenRoutes(self.experts[tokens], self.weights[tokens])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenRoutes)
            and np.array_equal(self.experts, other.experts)
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def joined(cls, parts: Sequence[TokenRoutes]) -> TokenRoutes:
        """Those of all parts, one after the other; there must be one."""
        return cls(np.concatenate([part.experts for part in parts]), np.concatenate([part.weights for part in parts]))


class Alternatives(NamedTuple):
    """What might have stood in each token's place: the likeliest tokens there, best first, the token itself among them.

    ids       [T, K] int32; 0 where nothing foretold the token
    logprobs  [T, K] float32, natural logarithms; NaN there
    pieces    the text of each, T rows of K; "" where a model has no tokenizer
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    pieces: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Routing:
    """The routes of a text, token by token.

    ids           [T] int32
    pieces        the text that each token adds; "" for control tokens, for a character's bytes but the last, and
                  where a model has no tokenizer
    experts       [T, L, A] int16, best first
    weights       [T, L, A] float32, of each token and layer with sum 1
    n_experts     E
    logprobs      [T] float32, natural logarithm of each token's probability under the model's own logits; NaN where
                  it is not known, as of the first token, which nothing foretells
    alternatives  what might have stood in each place; K is 0 where it was not asked for

    Raises ShapeError where these do not fit together.
    """

    ids: NDArray[np.int32]
    pieces: tuple[str, ...]
    experts: NDArray[np.int16]
    weights: NDArray[np.float32]
    n_experts: int
    logprobs: NDArray[np.float32]
    alternatives: Alternatives

    def __post_init__(self) -> None:
        n_tokens, others = len(self.ids), self.alternatives
        layers, places = (n_tokens, *self.experts.shape[1:3]), (n_tokens, *others.ids.shape[1:2])
        for name, array, dtype, shape in (
            ("ids", self.ids, np.int32, layers[:1]),
            ("experts", self.experts, np.int16, layers),
            ("weights", self.weights, np.float32, layers),
            ("logprobs", self.logprobs, np.float32, layers[:1]),
            ("alternatives.ids", others.ids, np.int32, places),
            ("alternatives.logprobs", others.logprobs, np.float32, places),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise ShapeError(
                    f"routing.{name}: expected {np.dtype(dtype)} {list(shape)}, found {array.dtype} "
                    f"{list(array.shape)}; are all arrays of the same tokens?"
                )
        if len(layers) != 3 or len(places) != 2:
            raise ShapeError("routing: expected experts [T, L, A] and alternatives [T, K], found fewer axes")
        if not len(self.pieces) == len(others.pieces) == n_tokens:
            raise ShapeError(
                f"routing.pieces: expected {n_tokens}, one a token, found {len(self.pieces)} and {len(others.pieces)}"
            )
        if any(len(row) != places[1] for row in others.pieces):
            raise ShapeError(f"routing.alternatives.pieces: expected rows of {places[1]}, found others")
        if self.experts.size and not 0 <= self.experts.min() <= self.experts.max() < self.n_experts:
            raise ShapeError(f"routing.experts: expected 0 to {self.n_experts - 1}, found others; is n_experts right?")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_layers(self) -> int:
        """L."""
        return self.experts.shape[1]

    @property
    def routes(self) -> TokenRoutes:
        """Experts and weights alone."""
        return TokenRoutes(self.experts, self.weights)

    def load(self, *, first_only: bool = False) -> NDArray[np.int64]:
        """How many tokens each expert plays in each layer, [L, E]: as any of a token's choices, or as the first."""
        return measures.load(self.experts, self.n_experts, first_only=first_only)

    def repetition(self, choices: int = 1) -> NDArray[np.float64]:
        """The share of neighbouring tokens with the same expert, [L]; NaN for fewer than two tokens.

        choices  1: their first experts are the same; 2: they share one of their first two, whichever it is on either
                 side. Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088, Table 5.
        """
        measures.check_choices(choices, self.experts.shape[2])
        if len(self) < 2:
            return np.full(self.n_layers, np.nan)
        return measures.repeats(self.experts, choices).mean(axis=0)

    def random_repetition(self, choices: int = 1) -> float:
        """What repetition would be if experts were drawn by lot: with two of eight 0.125 and 0.464."""
        measures.check_choices(choices, self.experts.shape[2])
        return measures.random_repetition(self.n_experts, choices)

    def to_bytes(self) -> bytes:
        """All of it, to be read by from_bytes, by this version and later ones."""
        from octuor.routing.packed import pack

        return pack(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Routing:
        """What to_bytes gave; safe on bytes from anywhere. Raises RequestError, ShapeError where they are not that."""
        from octuor.routing.packed import unpack

        return unpack(data)

    def plot(self, layers: Sequence[int] | None = None) -> Figure:
        """Load of experts, repetition over layers, and the text coloured by first experts: a matplotlib Figure.

        layers  at which the text is coloured, its first forty lines; None: the first, the middle and the last

        Raises BackendError without matplotlib (the plot extra), RequestError on layers that are not there.
        """
        from octuor.routing.plot import plot_routing

        return plot_routing(self, layers)
