"""The memory page: drawn anew every two seconds, while it is seen."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from octuor.errors import UiError
from octuor.ui.backend import Backend
from octuor.ui.memory_html import failed_html, memory_html, script, style
from octuor.ui.texts import Language
from octuor.ui.visitors import user_of


def build_memory(
    backend: Backend, *, language: gr.components.Component, language_of: Callable[[object], Language]
) -> None:
    """Fill the tab, inside of which this is called.

    language  tells the page's language, in a way that language_of understands
    """
    view = gr.HTML(
        elem_id="memory",
        html_template=f"<style>{style()}</style>${{value}}",
        js_on_load=f"{script()}\noctuorWhileSeen(element, () => trigger('seen'));",
        apply_default_css=False,
    )

    async def shown(tongue: object, request: gr.Request) -> str:
        try:
            return memory_html(await backend.status(user_of(request)), language_of(tongue))
        except UiError as error:
            return failed_html(str(error))

    # an event that the script above sends; one at a time from a page, and none of them waits for other pages'
    view.seen(shown, language, view, show_progress="hidden", api_visibility="private", concurrency_limit=None)
