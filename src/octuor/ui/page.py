"""The page: a bar and three tabs, built of Gradio's components, and what it takes to mount it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from octuor.ui import export, look
from octuor.ui.backend import Backend
from octuor.ui.chat_drawing import reader_of
from octuor.ui.chat_events import ChatEvents
from octuor.ui.chat_tab import build_chat_tab
from octuor.ui.conversations import Conversations
from octuor.ui.memory_tab import build_memory
from octuor.ui.observatory_tab import build_observatory
from octuor.ui.talk import Talk
from octuor.ui.texts import NAMES, translations
from octuor.ui.visitors import scope_user

# Gradio takes texts only in languages that it speaks itself, and Italian is none. page.js knows of this too.
SLOTS = {"it": "ca"}


def build_page(backend: Backend, conversations: Conversations, words: gr.I18n) -> gr.Blocks:
    """The whole page. words: as `page_words` makes them; it is given to the mounting too."""
    with gr.Blocks(title="Octuor", analytics_enabled=False, fill_height=True, fill_width=True) as page:
        forget = _bar(words)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(words("tab_chat"), elem_id="tab-chat"):
                tab = build_chat_tab(words)
            with gr.Tab(words("tab_observatory"), elem_id="tab-observatory") as second:
                build_observatory(second, words, backend, conversations, tab.current, tab.model)
            with gr.Tab(words("tab_memory"), elem_id="tab-memory"):
                build_memory(backend)
        ChatEvents(tab, Talk(backend, conversations), conversations).connect(page)
        page.load(_forgettable, None, forget, show_progress="hidden", api_visibility="private")
    # handlers wait for models, not for each other: as many answers at once as the server gives
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def page_words() -> gr.I18n:
    """All texts, for the browser to choose from by its language or by the one that was chosen."""
    texts = translations()
    return gr.I18n(**{SLOTS.get(language, language): known for language, known in texts.items()})


def page_routes(conversations: Conversations) -> list[Route]:
    """What is asked for beside Gradio's own, under /ui/: the look's files, and conversations to be downloaded."""

    def file(request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in look.FILES:
            return Response(status_code=404)
        return Response(look.file(name), media_type=look.FILES[name], headers={"cache-control": "no-cache"})

    def exported(request: Request) -> Response:
        owner, kind = scope_user(request.scope).owner, str(request.path_params["kind"])
        conversation = conversations.find(owner, str(request.path_params["conversation"]))
        if conversation is None or kind not in ("md", "json"):
            return Response(status_code=404)
        write = export.to_markdown if kind == "md" else export.to_json
        text = write(conversation, conversations.turns(owner, conversation.id))
        name = quote(export.file_name(conversation, kind))
        return Response(
            text,
            media_type="text/markdown; charset=utf-8" if kind == "md" else "application/json",
            headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
        )

    return [Route("/ui/export/{conversation}.{kind}", exported), Route("/ui/{name}", file)]


def _forgettable(request: gr.Request) -> dict[str, Any]:
    """Whether there is a key that the page could forget."""
    return gr.update(visible=reader_of(request).user.key is not None)


def _bar(words: gr.I18n) -> gr.Button:
    """The name, the interface's language, the key, light or dark. page.js gives them life. Returns the key's button."""
    options = "".join(f'<option value="{language}">{name}</option>' for language, name in NAMES.items())
    with gr.Row(elem_id="bar"):
        gr.Markdown("Octuor", elem_id="brand", container=False)
        gr.Markdown(words("language"), elem_id="language-label", container=False)
        gr.Markdown(f'<select id="language">{options}</select>', container=False)
        forget = gr.Button(words("forget_key"), elem_id="forget-key", size="sm", visible=False)
        gr.Button(words("theme"), elem_id="theme", elem_classes="icon", size="sm")
    return forget
