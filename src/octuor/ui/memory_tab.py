"""The memory page: drawn anew every two seconds, while it is seen."""

from __future__ import annotations

import gradio as gr

from octuor.errors import UiError
from octuor.ui.backend import Backend
from octuor.ui.chat_drawing import reader_of
from octuor.ui.memory_html import failed_html, memory_html

EMPTY = '<div class="octuor-memory"></div>'  # that memory.js sees come into sight


def build_memory(backend: Backend) -> None:
    """Fill the tab, inside of which this is called."""
    view = gr.Markdown(EMPTY, elem_id="memory", container=False, sanitize_html=False, latex_delimiters=[])
    refresh = gr.Button("", elem_id="memory-refresh", visible="hidden")  # memory.js presses it

    async def shown(request: gr.Request) -> str:
        reader = reader_of(request)
        try:
            return memory_html(await backend.status(reader.user), reader.language)
        except UiError as error:
            return failed_html(str(error))

    refresh.click(shown, None, view, show_progress="hidden", api_visibility="private")
