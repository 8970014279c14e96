"""Eight colours for eight experts, as backgrounds of dark text.

They differ in lightness as well as in hue, so that they can be told apart with any kind of colour vision: 0.085 in
OKLab at least between any two as people without red, green or blue receptors see them, where 0.02 is just seen.
"""

from __future__ import annotations

# In the order of the rainbow; chosen by a search over lightness, chroma and hue for the largest least difference.
PALETTE = ("#f68b9d", "#fdd0ab", "#9a9c45", "#b4dc4e", "#a3f3f0", "#3fbdf2", "#7a83f3", "#b96d99")
INK = "#12141a"  # of text on any of them: a contrast of 5 and more
COLOURED = 64  # experts that a style sheet has rules for


def colour(expert: int) -> str:
    """The colour of an expert, "#rrggbb"; from the ninth on they come again."""
    return PALETTE[expert % len(PALETTE)]


def expert_rules(root: str) -> str:
    """A style sheet that gives elements with data-e under a selector the colour of that expert, as --c."""
    return "".join(f'{root} [data-e="{n}"]{{--c:{colour(n)}}}\n' for n in range(COLOURED))
