"""The page as an application of Gradio. Importing this imports Gradio: mount.make_page sets it up before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI

from octuor.ui import look
from octuor.ui.backend import Backend
from octuor.ui.conversations import open_conversations
from octuor.ui.page import build_page, page_routes, page_words


def make_app(backend: Backend, max_upload: int) -> FastAPI:
    """The application, whose lifespan is to be entered. max_upload: bytes of a file that is given.

    Raises AccountError of kind "state" if the conversations cannot be opened.
    """
    conversations = open_conversations()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            conversations.close()

    words = page_words()
    shell = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    shell.routes.extend(page_routes(conversations))  # before Gradio's, which takes all paths
    gr.mount_gradio_app(
        shell,
        build_page(backend, conversations, words),
        path="/",
        theme=look.theme(),
        i18n=words,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=max_upload,
        allowed_paths=[],
        show_error=True,
        pwa=False,
    )
    return shell
