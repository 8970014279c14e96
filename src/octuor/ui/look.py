"""How the page looks: Gradio's theme, and the files that lie beside this module and are served with the page.

style.css  over Gradio's own
page.js    what Gradio has no component for: theme, language, keyboard, drawers. It comes before Gradio's scripts

The observatory's and the memory page's own are served with these, at their ends.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

from octuor.routing.colours import EXPERTS, INK

# fonts of the reader's own machine: nothing is fetched from anywhere
SANS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
FILES = {"page.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8"}
PARTS = {
    "page.js": ("page.js", "observatory.js", "memory.js"),
    "style.css": ("style.css", "observatory.css", "memory.css"),
}
COLOURED = 64  # experts that have a colour; a ninth has the first one's


def theme() -> gr.themes.Base:
    """Gradio's plainest, with local fonts; the colours are style.css's."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.stone, font=list(SANS), font_mono=list(MONO)
    )


def file(name: str) -> str:
    """The text of one of FILES, with its parts."""
    texts = [(files("octuor.ui") / part).read_text(encoding="utf-8") for part in PARTS[name]]
    return "\n".join(texts if name != "style.css" else [*texts, expert_rules()])


def expert_rules() -> str:
    """A style sheet in which anything with data-e has the colour of that expert as --c, and --on-expert lies on it."""
    n = len(EXPERTS)
    of = [", ".join(f'[data-e="{again}"]' for again in range(each, COLOURED, n)) for each in range(n)]
    rules = [f"{selectors} {{ --c: {colour}; }}" for selectors, colour in zip(of, EXPERTS, strict=True)]
    return "\n".join([f":root {{ --on-expert: {INK}; }}", *rules])
