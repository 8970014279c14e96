"""Colours are eight, apart from each other, and text on their tints can be read."""

from __future__ import annotations

from itertools import combinations

from octuor.routing.colours import EXPERTS, INK, NAMES, expert_colour, expert_tint, mixed

LEAST_CONTRAST = 4.5  # WCAG 2.1, 1.4.3, for small text


def luminance(colour: str) -> float:
    """Relative, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_eight_experts_have_eight_colours() -> None:
    assert len(set(EXPERTS)) == len(NAMES) == 8
    tints = [expert_tint(expert) for expert in range(8)]
    for one, other in combinations(tints, 2):
        assert sum(abs(int(one[at : at + 2], 16) - int(other[at : at + 2], 16)) for at in (1, 3, 5)) > 45
    assert expert_colour(9) == expert_colour(1)


def test_text_on_tints_can_be_read() -> None:
    for expert in range(8):
        contrast = (luminance(expert_tint(expert)) + 0.05) / (luminance(INK) + 0.05)
        assert contrast >= LEAST_CONTRAST


def test_mixing() -> None:
    assert mixed("#ffffff", "#000000", 0.0) == "#ffffff"
    assert mixed("#ffffff", "#204060", 1.0) == "#204060"
    assert mixed("#000000", "#ffffff", 0.5) == "#808080"
