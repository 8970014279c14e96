"""A colour for each expert, told apart by most colour-blind people too; a number always stands beside it.

Source: Okabe & Ito 2008, Color Universal Design, with grey in the place of black, which hides text.
"""

from __future__ import annotations

EXPERTS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
NAMES = ("orange", "sky blue", "green", "yellow", "blue", "vermilion", "purple", "grey")
INK = "#1c2430"  # of text on any tint: a contrast of 6 to 1 at least
TINT = 0.6


def expert_colour(expert: int) -> str:
    """As #rrggbb, for bars, lines and cells; a ninth expert has the first one's."""
    return EXPERTS[expert % len(EXPERTS)]


def expert_tint(expert: int) -> str:
    """As #rrggbb, to lie behind text."""
    return mixed("#ffffff", expert_colour(expert), TINT)


def mixed(light: str, dark: str, share: float) -> str:
    """#rrggbb that has `share` of dark, the rest of light."""
    pairs = ((int(light[at : at + 2], 16), int(dark[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)
