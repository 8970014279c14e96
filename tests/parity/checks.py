"""What parity means: the comparisons that the recorded and the live tests share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.ops import Ops
from octuor.weights import Weight
from parity.cases import N_GREEDY, Case
from toys import F32Array, Toy, leaves, relative_error

# Relative to the largest logit of the case. Sums of up to a few hundred float32 products, three layers deep,
# differ by their order to about 1e-6; a wrong constant, mask or routing shows at 1e-2 and above.
LOGIT_TOLERANCE = 1e-4
# A token can only differ within that tolerance if the two best logits are closer than twice its size;
# record.py takes no case in which they ever are.
GREEDY_GAP = 2 * LOGIT_TOLERANCE
# Chosen and not chosen router logits, relative to the largest: the same for routing, which is a jump.
ROUTER_GAP = 1e-4
# Per parameter, relative to its largest gradient: float32 through forward and backward.
GRADIENT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Expected:
    """An oracle's outputs for one case: logits [T, V] of the prompt, and N_GREEDY greedy tokens after it."""

    logits: F32Array
    tokens: NDArray[np.int64]


def toy(ops: Ops, case: Case, weights: Mapping[str, Weight] | None = None) -> Toy:
    """The case's model in a backend; weights None: from its seed, not through a file."""
    return Toy(ops, case.config, leaves(case.values) if weights is None else weights)


def check_logits(found: Toy, case: Case, expected: Expected) -> float:
    """The prompt in one pass, without a cache and through one; returns the larger error of both."""
    alone = found.alone(case.prompt)
    cache = found.cache(len(case.prompt))
    cached = found.extend(cache, cache.new(), case.prompt)
    error = max(relative_error(rows, expected.logits) for rows in (alone, cached))
    assert error <= LOGIT_TOLERANCE, f"{case.name}: logits differ by {error:.1e}"
    return error


def check_greedy(found: Toy, case: Case, expected: Expected) -> None:
    """N_GREEDY tokens, decoded one by one through the cache."""
    tokens = found.greedy(found.cache(len(case.prompt) + N_GREEDY), case.prompt, N_GREEDY)
    assert tokens == expected.tokens.tolist(), case.name
