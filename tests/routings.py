"""A routing small enough to be read."""

from __future__ import annotations

import numpy as np

from octuor.routing import Alternatives, Routing


def small_routing() -> Routing:
    """Three tokens, two layers, two of four experts, one alternative."""
    return Routing(
        ids=np.array([1, 500, 501], dtype=np.int32),
        pieces=("", "<b>é", " & co"),
        experts=np.array([[[0, 1], [3, 2]], [[1, 0], [3, 1]], [[2, 3], [1, 3]]], dtype=np.int16),
        weights=np.full((3, 2, 2), 0.5, dtype=np.float32),
        n_experts=4,
        logprobs=np.array([np.nan, -0.5, -2.0], dtype=np.float32),
        alternatives=Alternatives(
            np.array([[0], [7], [8]], dtype=np.int32),
            np.array([[np.nan], [-0.25], [-1.0]], dtype=np.float32),
            (("",), ("</s>",), ("x",)),
        ),
    )
