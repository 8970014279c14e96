"""Scoring rows with a model as it stands: what steps take gradients of, what validation means, what a base thinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octuor.config import ModelConfig
from octuor.ops.torch import TorchOps
from octuor.tune.data import Split
from octuor.tune.encode import Example
from octuor.tune.forward import Turn, hidden_states, make_turn
from octuor.tune.loss import Score, answers_score, log_probabilities, preference_score
from octuor.tune.plan import Rows, turns
from octuor.tune.recipe import TuneRecipe
from octuor.weights import Weights

OnWork = Callable[[str, int, int], None]  # what is at work, done and in all
F32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """Means over rows: loss over answers' tokens, or over pairs, whose margin and accuracy there are then too."""

    loss: float
    margin: float | None = None
    accuracy: float | None = None


class Scorer:
    """Scores turns of a recipe's rows under any tree of weights.

    is_balanced  whether steps count the load-balancing loss
    """

    def __init__(self, config: ModelConfig, recipe: TuneRecipe, dtype: torch.dtype, on_work: OnWork | None) -> None:
        self._config, self._recipe, self._schedule = config, recipe, recipe.schedule
        self._ops = TorchOps(dtype=dtype)
        self._on_work = on_work
        learns_routing = recipe.tune.learns_routing and not config.is_dense
        self.is_balanced = learns_routing and recipe.schedule.balance > 0

    def score(self, weights: Weights, turn: Turn, reference: Tensor | None) -> tuple[Score, Tensor | None]:
        """A turn's score, and the load-balancing loss if it counts; with gradients where they are enabled."""
        log_p, balance = self._log_p(weights, turn)
        if reference is None or self._recipe.preference is None:
            return answers_score(log_p), balance
        return preference_score(log_p, turn.owners, reference, self._recipe.preference), balance

    def validate(self, weights: Weights, split: Split, references: F32Array | None) -> Validation:
        """The means of all of a split; references: what `references` found, for preferences."""
        scores, done = [], 0
        for rows in self._turns(split, np.arange(len(split.examples))):
            with torch.no_grad():
                scores.append(self.score(weights, turn_of(split.examples, rows), rows_of(references, rows))[0])
            done += len(rows)
            self._say("validating", done, len(split.examples))
        return self.mean(scores)

    def references(self, weights: Weights, split: Split, wanted: Rows) -> F32Array:
        """Log-probability of each wanted pair's answers, [rows, 2], else NaN: of the base, before anything learns."""
        values = np.full((len(split.examples), 2), np.nan, dtype=np.float32)
        done = 0
        for rows in self._turns(split, wanted):
            turn = turn_of(split.examples, rows)
            with torch.no_grad():
                sums = torch.zeros(turn.n_sequences).index_add(0, turn.owners, self._log_p(weights, turn)[0])
            values[rows] = sums.numpy().reshape(-1, 2)
            done += len(rows)
            self._say("asking the base", done, len(wanted))
        return values

    def mean(self, scores: Sequence[Score]) -> Validation:
        """Of sums, the means."""
        n = sum(score.n for score in scores)
        loss = sum(float(score.loss) for score in scores) / n
        if self._recipe.preference is None:
            return Validation(loss)
        return Validation(loss, sum(score.margin for score in scores) / n, sum(score.n_right for score in scores) / n)

    def _log_p(self, weights: Weights, turn: Turn) -> tuple[Tensor, Tensor | None]:
        learns = torch.is_grad_enabled()
        hidden, balance = hidden_states(
            self._ops, weights, self._config, turn.batch, turn.rows,
            checkpointing=learns and self._schedule.checkpointing, balanced=learns and self.is_balanced,
        )  # fmt: skip
        return log_probabilities(hidden, weights.lm_head, turn.targets, self._schedule.head_rows), balance

    def _turns(self, split: Split, rows: Rows) -> list[Rows]:
        return turns(rows, split.lengths, self._schedule.tokens_at_once)

    def _say(self, what: str, done: int, total: int) -> None:
        if self._on_work is not None:
            self._on_work(what, done, total)


def turn_of(examples: Sequence[Example], rows: Rows) -> Turn:
    """Some examples as one turn, in the order of rows."""
    return make_turn([piece for row in rows.tolist() for piece in examples[row].pieces])


def rows_of(references: F32Array | None, rows: Rows) -> Tensor | None:
    """References of some rows, flat: [2 * rows]."""
    return None if references is None else torch.from_numpy(references[rows].reshape(-1))
