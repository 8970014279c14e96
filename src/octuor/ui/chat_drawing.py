"""From how a conversation stands to what each of the chat's components becomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from octuor.ui.backend import ChatSettings, ModelCard, User
from octuor.ui.chat_tab import ChatTab
from octuor.ui.chat_view import STARTERS, chat_messages, conversations_html, status_html
from octuor.ui.conversations import Conversation, Conversations
from octuor.ui.settings import from_page, longest_answer, to_json, within
from octuor.ui.talk import Shown
from octuor.ui.texts import Language, language_of, say
from octuor.ui.visitors import user_of

LANGUAGE_COOKIE = "octuor_language"  # written by page.js
Changes = dict[Any, Any]  # components and what they become


@dataclass(frozen=True)
class Reader:
    """Who looks at a page. page: the name of this one page, which Gradio gives anew whenever it is loaded."""

    user: User
    page: str
    language: Language


def reader_of(request: gr.Request) -> Reader:
    """Who has caused an event. The language is the one that was chosen, else the browser's."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    language = language_of(chosen or str(request.headers.get("accept-language", "")).partition(",")[0])
    return Reader(user_of(request), str(request.session_hash), language)


@dataclass(frozen=True)
class Panel:
    """What the page shows beside the chat, when something is asked. current: "" where nothing has begun."""

    current: str
    cards: Sequence[ModelCard]
    model: str
    settings: ChatSettings

    @property
    def card(self) -> ModelCard | None:
        """The chosen model's."""
        return card_of(self.cards, self.model)


def card_of(cards: Iterable[ModelCard], model: str) -> ModelCard | None:
    """The card of a model; None where it is not offered."""
    return next((card for card in cards if card.name == model), None)


class Drawing:
    """Draws on the components of a ChatTab."""

    def __init__(self, tab: ChatTab, conversations: Conversations) -> None:
        self._tab = tab
        self._kept = conversations

    def panel(self, asked: Sequence[Any]) -> Panel:
        """From the values of current, cards, model and the settings, in this order."""
        current, cards, model, *boxes = asked
        settings = from_page(dict(zip(self._tab.settings, boxes, strict=True)))
        return Panel(
            str(current or ""), tuple(cards), str(model or ""), within(settings, card_of(cards, str(model or "")))
        )

    def answer(self, reader: Reader, shown: Shown, card: ModelCard | None) -> Changes:
        """The messages and the line below them: what changes while an answer is given."""
        return {
            self._tab.chat: chat_messages(shown, reader.language),
            self._tab.status: status_html(shown, reader.language, card),
        }

    def name(self, reader: Reader, conversation: Conversation | None, search: str) -> Changes:
        """The title, the list, and what can be done with the conversation as a whole."""
        tab = self._tab
        current = "" if conversation is None else conversation.id
        is_there = conversation is not None
        files = f"./ui/export/{current}"
        return {
            tab.title: gr.update(value="" if conversation is None else conversation.title, interactive=is_there),
            tab.conversations: self.list(reader, current, search),
            tab.export_markdown: gr.update(link=f"{files}.md" if is_there else None, interactive=is_there),
            tab.export_json: gr.update(link=f"{files}.json" if is_there else None, interactive=is_there),
            tab.delete: gr.update(interactive=is_there),
            tab.delete_row: gr.update(visible=False),
        }

    def list(self, reader: Reader, current: str, search: str) -> str:
        """The list of conversations, those with all words of `search`."""
        found = self._kept.search(reader.user.owner, search or "")
        now = datetime.now().astimezone()
        is_search = bool((search or "").strip())
        return conversations_html(found, current, reader.language, now, is_search=is_search)

    def kept(self, reader: Reader, current: str, error: str | None = None) -> Shown:
        """The conversation as it is kept now; an answer that has no word yet, to another page, is not shown."""
        turns = self._kept.turns(reader.user.owner, current)
        is_begun = not turns or turns[-1].content or turns[-1].finish
        return Shown(None, turns if is_begun else turns[:-1], error=error)

    def conversation(
        self,
        reader: Reader,
        cards: Sequence[ModelCard],
        conversation: Conversation | None,
        search: str = "",
        error: str | None = None,
    ) -> Changes:
        """Everything that a conversation is shown in; None is an empty chat, and leaves model and settings."""
        current = "" if conversation is None else conversation.id
        shown = self.kept(reader, current, error)
        changes = {**self.answer(reader, shown, None), **self.name(reader, conversation, search)}
        changes[self._tab.current] = current
        if conversation is None:
            return changes
        card = card_of(cards, conversation.model)
        if card is not None:
            changes[self._tab.model] = card.name
        changes |= self.settings(within(conversation.settings, card), card)
        return changes | self.answer(reader, shown, card)

    def settings(self, settings: ChatSettings, card: ModelCard | None) -> Changes:
        """The panel; answers can be as long as the model's context."""
        boxes = self._tab.settings
        values = to_json(settings)
        changes: Changes = {boxes[name]: value for name, value in values.items()}
        longest = gr.update(value=values["max_new_tokens"], maximum=longest_answer(card))
        return {**changes, boxes["max_new_tokens"]: longest}

    def beginning(self, reader: Reader) -> dict[str, Any]:
        """What an empty chat says: properties of the Chatbot."""
        title, text = say(reader.language, "empty_title"), say(reader.language, "empty_text")
        return {
            "placeholder": f'<div class="beginning"><h2>{title}</h2><p>{text}</p></div>',
            "examples": [{"text": say(reader.language, key)} for key in STARTERS],
        }
