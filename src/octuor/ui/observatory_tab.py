"""The observatory: which experts play each token of an answer, a conversation or a text that the reader types."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, fields
from html import escape
from typing import Any, Literal, get_args

import gradio as gr

from octuor.errors import OctuorError, UiError
from octuor.routing import Routing, html
from octuor.ui.backend import Backend, User
from octuor.ui.chat_drawing import reader_of
from octuor.ui.conversations import Conversations, Turn
from octuor.ui.observing import Scope, last_answer, whole_conversation
from octuor.ui.texts import Language, say

MAX_TEXT = 20_000  # characters of a text that is sent through
FORMS = ("language", "decimal")  # fields of html.Words that are no texts
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Observatory:
    """What the tab's functions need. Used by all pages at once."""

    backend: Backend
    conversations: Conversations

    async def kept(self, user: User, scope: Scope, conversation: str, language: Language) -> str:
        """The view of an answer or a conversation, or a line that says why there is none."""
        return await asyncio.to_thread(self._kept, user.owner, scope, conversation, language)

    async def routed(self, user: User, model: str, text: str, language: Language) -> str:
        """The view of any text, or a line that says why there is none."""
        if not text.strip():
            return ""
        try:
            if len(text) > MAX_TEXT:
                raise UiError(f"text: expected at most {MAX_TEXT} characters, found {len(text)}; shorten it")
            found = await self.backend.route(user, model, text)
        except UiError as error:
            return line(str(error), "failed")
        if found is None:
            return line(say(language, "cannot_observe"))
        return await asyncio.to_thread(lambda: drawn(Routing.from_bytes(found), language))

    def _kept(self, owner: str, scope: Scope, conversation: str, language: Language) -> str:
        turns = self.conversations.turns(owner, conversation) if conversation else ()
        if not any(turn.role == "assistant" for turn in turns):
            return line(say(language, "no_answer_yet"))

        def read(turn: Turn) -> Routing | None:
            found = self.conversations.routing(owner, turn.id) if turn.has_routing else None
            return None if found is None else Routing.from_bytes(found)

        try:
            routing = (whole_conversation if scope == "conversation" else last_answer)(turns, read)
        except OctuorError as error:
            return line(str(error), "failed")
        return drawn(routing, language) if routing is not None and len(routing) else line(say(language, "no_routes"))


def drawn(routing: Routing, language: Language) -> str:
    """The view, with the ids by which the tab's parts are found."""
    return html.view(routing, view_words(language), ids="observatory")


def view_words(language: Language) -> html.Words:
    """What the view says."""
    said = {field.name: say(language, f"view_{field.name}") for field in fields(html.Words) if field.name not in FORMS}
    return html.Words(language=language, decimal="." if language == "en" else ",", **said)


def line(text: str, kind: str = "note") -> str:
    """A line in the place of a view."""
    return f'<p class="octuor-{kind}">{escape(text)}</p>'


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
    view = gr.Markdown("", elem_id="observatory", container=False, sanitize_html=False, latex_delimiters=[])

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
    tab.select(shown, asked, view, **quiet)
    for each, button in zip(SCOPES, buttons, strict=True):
        button.click(choose(each), None, [scope, own, *buttons], **quiet).then(shown, asked, view, **quiet)
    send.click(shown, asked, view, show_progress="minimal", api_visibility="private")


def _variant(each: Scope, chosen: Scope) -> Literal["primary", "secondary"]:
    return "primary" if each == chosen else "secondary"
