"""The observatory: which experts play each token of an answer, a conversation or a text that the reader types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import gradio as gr

from octuor.ui.backend import Backend
from octuor.ui.chat_drawing import reader_of
from octuor.ui.conversations import Conversations
from octuor.ui.observing import MAX_TEXT, Observatory, Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)


def build_observatory(
    tab: gr.Tab, words: gr.I18n, backend: Backend, conversations: Conversations, current: gr.Textbox, model: gr.Dropdown
) -> None:
    """Fill the tab, inside of which this is called.

    current  the conversation's id; "" where it has not begun
    model    the one that is chosen, which the reader's own texts go through
    """
    observatory = Observatory(backend, conversations)
    scope = gr.State("answer")
    gr.Markdown(words("observatory_about"), elem_id="observatory-about", container=False)
    with gr.Row(elem_id="observatory-scope"):
        buttons = [
            gr.Button(words(f"observe_{each}"), size="sm", variant=_variant(each, "answer"), elem_id=f"observe-{each}")
            for each in SCOPES
        ]
    with gr.Row(visible=False, elem_id="observatory-own", equal_height=True) as own:
        text = gr.Textbox(
            label=words("your_text"),
            placeholder=words("your_text_hint"),
            lines=2,
            max_lines=10,
            max_length=MAX_TEXT,
            elem_id="observatory-input",
            scale=8,
        )
        send = gr.Button(words("route"), variant="primary", elem_id="observatory-route", scale=1, min_width=120)
    shows = gr.Markdown("", elem_id="observatory", container=False, sanitize_html=False, latex_delimiters=[])

    async def shown(request: gr.Request, scope: Scope, conversation: str, name: str, given: str) -> str:
        reader = reader_of(request)
        if scope == "text":
            return await observatory.routed(reader.user, name, given, reader.language)
        return await observatory.kept(reader.user, scope, conversation, reader.language)

    def choose(each: Scope) -> Callable[[], list[Any]]:
        def chosen() -> list[Any]:
            return [each, gr.update(visible=each == "text"), *(gr.update(variant=_variant(n, each)) for n in SCOPES)]

        return chosen

    asked: list[Any] = [scope, current, model, text]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    tab.select(shown, asked, shows, **quiet)
    for each, button in zip(SCOPES, buttons, strict=True):
        button.click(choose(each), None, [scope, own, *buttons], **quiet).then(shown, asked, shows, **quiet)
    send.click(shown, asked, shows, show_progress="minimal", api_visibility="private")


def _variant(each: Scope, chosen: Scope) -> Literal["primary", "secondary"]:
    return "primary" if each == chosen else "secondary"
