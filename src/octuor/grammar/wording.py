"""How messages show what a request has: short, and safe for any value that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping


def shown(value: object) -> str:
    """A value in a few words: text and numbers themselves, cut off; only the kind of what holds others."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return repr(text[:60] + "..." if len(text) > 60 else text) if isinstance(value, str) else text[:60]
