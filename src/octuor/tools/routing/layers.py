"""Layers by their numbers, or as first, middle and last."""

from __future__ import annotations

from octuor.errors import RequestError
from octuor.routing.plot import check_layers


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """As in "first,middle,last" or "0,3,5", in the order they are named, each once. Raises RequestError."""
    names = {"first": 0, "middle": (n_layers - 1) // 2, "last": n_layers - 1}
    layers = []
    for part in map(str.strip, text.split(",")):
        if part not in names and not part.isdecimal():
            raise RequestError(f"layers: expected numbers or first, middle, last, as in 0,3,last; found {part!r}")
        layers.append(names[part] if part in names else int(part))
    check_layers(layers, n_layers)
    return tuple(dict.fromkeys(layers))
