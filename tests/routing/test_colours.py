"""The eight colours can be read on and told apart, with any kind of colour vision."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.routing.colours import EXPERTS, INK, LINES, expert_tint

# Machado, Oliveira & Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", at
# full severity, on linear sRGB.
VISION = {
    "whole": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Ottosson 2020, "A perceptual color space for image processing" (OKLab)
TO_CONES = np.array(
    [[0.41222147, 0.53633254, 0.05144599], [0.21190350, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]]
)
TO_LAB = np.array(
    [
        [0.21045426, 0.79361779, -0.00407205],
        [1.97799850, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
)
APART = 0.08  # in OKLab, where 0.02 is just seen
CONTRAST = 4.5  # WCAG 2.2, 1.4.3


def linear(code: str) -> NDArray[np.float64]:
    """Linear sRGB of "#rrggbb"."""
    c = np.array([int(code[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(code: str) -> float:
    return float(linear(code) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("vision", VISION)
def test_any_two_are_told_apart(vision: str) -> None:
    seen = [TO_LAB @ np.cbrt(TO_CONES @ np.clip(VISION[vision] @ linear(code), 0, 1)) for code in EXPERTS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > APART


def test_text_is_read_on_each() -> None:
    assert all((luminance(code) + 0.05) / (luminance(INK) + 0.05) > CONTRAST for code in EXPERTS)


def test_colours_come_again_after_the_eighth_expert() -> None:
    assert [expert_tint(n) for n in range(8)] == list(EXPERTS)
    assert expert_tint(8) == expert_tint(0)


def test_lines_are_eight_too() -> None:
    assert len(set(LINES)) == len(EXPERTS)
