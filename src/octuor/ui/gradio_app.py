"""The page as an application of Gradio. Importing this imports Gradio: mount.make_page sets it up before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import FastAPI

from octuor.ui.backend import Ask, Backend, ChatSettings, Delta, Message
from octuor.ui.visitors import user_of


def make_app(backend: Backend, max_upload: int) -> FastAPI:
    async def answer(text: str, _: list[Any], request: gr.Request) -> AsyncIterator[tuple[str, list[Any]]]:
        user = user_of(request)
        model = (await backend.models(user))[0].name
        said = ""
        ask = Ask(model, [Message("user", text)], ChatSettings(max_new_tokens=100))
        async with aclosing(backend.chat(user, ask)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    said += part.text
                    yield "", [{"role": "user", "content": text}, {"role": "assistant", "content": said}]

    with gr.Blocks(title="Octuor", analytics_enabled=False) as blocks:
        chat = gr.Chatbot(elem_id="chat")
        message = gr.Textbox(elem_id="message")
        message.submit(answer, [message, chat], [message, chat])
    shell = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        shell,
        blocks,
        path="/",
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
