"""How the page looks: Gradio's theme, and the files that lie beside this module and are served with the page.

style.css  over Gradio's own
page.js    what Gradio has no component for: theme, language, keyboard, drawers. It comes before Gradio's scripts
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

# fonts of the reader's own machine: nothing is fetched from anywhere
SANS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
FILES = {"page.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8"}


def theme() -> gr.themes.Base:
    """Gradio's plainest, with local fonts; the colours are style.css's."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.stone, font=list(SANS), font_mono=list(MONO)
    )


def file(name: str) -> str:
    """The text of one of FILES."""
    return (files("octuor.ui") / name).read_text(encoding="utf-8")
