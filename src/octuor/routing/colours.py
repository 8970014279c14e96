"""A colour for each expert, told apart with any kind of colour vision; a number always stands beside it.

They lie behind text, and differ in lightness as well as in hue: by 0.085 in OKLab at least between any two as people
without red, green or blue receptors see them, where 0.02 is just seen.
"""

from __future__ import annotations

# In the order of the rainbow; chosen by a search over lightness, chroma and hue for the largest least difference.
EXPERTS = ("#f68b9d", "#fdd0ab", "#9a9c45", "#b4dc4e", "#a3f3f0", "#3fbdf2", "#7a83f3", "#b96d99")
INK = "#12141a"  # of text on any of them: a contrast of 5 to 1 at least
# Of lines and bars on white that are not experts: Okabe & Ito 2008, Color Universal Design, with grey in the place of
# black. Orange, sky blue, green, yellow, blue, vermilion, purple, grey.
LINES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")


def expert_tint(expert: int) -> str:
    """As #rrggbb; a ninth expert has the first one's."""
    return EXPERTS[expert % len(EXPERTS)]
