"""Which expert memory can do without: the one whose next use is expected last.

All experts of a model take turns in a fixed order of layers, so what is best to let go of (Belady 1966) is known but
for the router's choices, and those are guessed from how often each expert was chosen lately. Bytes saved per byte held
come to the same: holding an expert saves its own bytes each time it is used.

L layers, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 32  # tokens after which a choice weighs half; docs/experiments.md has what others gave
LEAST_SHARE = 1e-3


class Usage:
    """How often each expert is chosen, from the routes so far.

    shares  [L, E] of a layer's tokens, recent ones weighing more; equal before the first
    """

    def __init__(self, n_layers: int, n_experts: int, n_chosen: int, half_life: float = HALF_LIFE) -> None:
        self.shares = np.full((n_layers, n_experts), n_chosen / n_experts)
        self._half_life = half_life

    def note(self, layer: int, chosen: NDArray[np.int32]) -> None:
        """Learn from the choices [T, A] of the tokens of a pass."""
        if len(chosen):
            counts = np.bincount(chosen.reshape(-1), minlength=self.shares.shape[1])
            keep = 0.5 ** (len(chosen) / self._half_life)
            self.shares[layer] = keep * self.shares[layer] + (1 - keep) * counts / len(chosen)

    def chances(self, n_tokens: int) -> NDArray[np.float64]:
        """[L, E] that an expert is chosen by one of so many tokens."""
        return 1 - (1 - np.clip(self.shares, LEAST_SHARE, 1)) ** n_tokens

    def passes_to_use(self, layer: int, n_tokens: int) -> NDArray[np.float64]:
        """[L, E] passes until each expert is expected to be used, from `layer` of a pass of n_tokens on.

        What this layer and those before it hold has had its turn in this pass. Later passes are thought to be of one
        token, for answers have many of them and prompts few.
        """
        n_layers = len(self.shares)
        ahead = (np.arange(n_layers) - layer - 1) % n_layers + 1  # layers from here to the expert's turn
        missed = np.where(np.arange(n_layers)[:, None] > layer, 1 - self.chances(n_tokens), 1 - self.chances(1))
        return ahead[:, None] / n_layers + missed / np.clip(self.shares, LEAST_SHARE, 1)
