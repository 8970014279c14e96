"""How the page looks: Gradio's theme, and the files that lie beside this module and are served with the page.

style.css  over Gradio's own
page.js    what Gradio has no component for: theme, language, keyboard, drawers. It comes before Gradio's scripts

The observatory's and the memory page's own are served at the end of these.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

from octuor.routing import html
from octuor.ui import memory_html

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
    text = (files("octuor.ui") / name).read_text(encoding="utf-8")
    if name == "page.js":
        return "\n".join((text, html.script(), "octuorRouting(document);", memory_html.script()))
    return "\n".join((text, html.style(), memory_html.style()))
