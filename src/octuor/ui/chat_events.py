"""What the chat's components do: from Gradio's events to `talk` and `conversations`, and back to components.

Each handler works for the user of its request alone; what one page shows is in that page's components, and nothing of
it is here. Errors that users cause become a line in the chat or a note, and nothing is lost by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from octuor.errors import OctuorError, UiError
from octuor.ui import export, talk
from octuor.ui.backend import ChatSettings, ModelCard
from octuor.ui.chat_drawing import Changes, Drawing, Panel, Reader, reader_of
from octuor.ui.chat_tab import ChatTab
from octuor.ui.conversations import Conversation, Conversations, Turn
from octuor.ui.markdown import as_written
from octuor.ui.texts import say


class ChatEvents:
    """The handlers of one chat's components."""

    def __init__(self, tab: ChatTab, talking: talk.Talk, conversations: Conversations) -> None:
        self._tab = tab
        self._talk = talking
        self._kept = conversations
        self._draw = Drawing(tab, conversations)
        self._nothing: Changes = gr.skip()

    def connect(self, page: gr.Blocks) -> None:
        """Give each event its handler."""
        tab = self._tab
        boxes = list(tab.settings.values())
        asked = [tab.current, tab.cards, tab.model, *boxes]
        # each of these costs Gradio time at every step of an answer, whether it changes or not
        told = [tab.chat, tab.status, tab.message, tab.current]
        named = [tab.title, tab.conversations, tab.export_markdown, tab.export_json, tab.delete, tab.delete_row]
        seen: list[Any] = [*told, tab.cards, tab.model, *boxes, *named]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        last: dict[str, Any] = {"trigger_mode": "always_last", **quiet}

        page.load(self.opened, None, seen, **quiet)
        gr.on([tab.send.click, tab.message.submit], self.sent, [tab.message, *asked], told, **quiet)
        tab.chat.example_select(self.starter_chosen, asked, told, **quiet)
        tab.chat.edit(self.edited, asked, told, **quiet)
        tab.retry.click(self.retried, asked, told, **quiet)
        tab.go_on.click(self.continued, asked, told, **quiet)
        tab.undo.click(self.undone, [tab.message, *asked], told, **quiet)
        tab.stop.click(self.stopped, None, None, queue=False, **quiet)

        tab.picked.change(self.picked, [tab.picked, tab.cards, tab.search], seen, **last)
        tab.new.click(self.new, [tab.search], seen, **quiet)
        tab.search.change(self.searched, [tab.search, tab.current], tab.conversations, **last)
        gr.on([tab.title.submit, tab.title.blur], self.renamed, [tab.title, tab.current, tab.search], named, **quiet)
        tab.current.change(self.named, [tab.current, tab.search], named, **last)
        tab.delete.click(lambda: gr.update(visible=True), None, tab.delete_row, queue=False, **quiet)
        tab.delete_keep.click(lambda: gr.update(visible=False), None, tab.delete_row, queue=False, **quiet)
        tab.delete_sure.click(self.deleted, [tab.current, tab.search], seen, **quiet)
        tab.imported.upload(self.imported, [tab.imported, tab.cards], seen, **quiet)

        gr.on([box.input for box in boxes], self.configured, asked, None, **last)
        tab.model.input(self.model_chosen, asked, boxes, **quiet)
        tab.reset.click(self.reset, asked, boxes, **quiet)

    async def opened(self, request: gr.Request) -> Changes:
        """A page is loaded: the conversation that its address names, or an empty chat."""
        reader = reader_of(request)
        cards: Sequence[ModelCard] = ()
        error = None
        try:
            cards = tuple(await self._talk.backend.models(reader.user))
        except OctuorError as failed:
            error = str(failed)
        wanted = str(request.query_params.get("c", ""))
        conversation = await asyncio.to_thread(self._kept.find, reader.user.owner, wanted)
        changes = await asyncio.to_thread(self._draw.conversation, reader, cards, conversation, "", error)
        names = [card.name for card in cards]
        chosen = changes.get(self._tab.model, names[0] if names else None)
        changes[self._tab.model] = gr.update(choices=names, value=chosen)
        changes[self._tab.cards] = cards
        if conversation is None and cards:
            changes |= self._draw.settings(ChatSettings(), cards[0])
        changes[self._tab.chat] = gr.update(value=changes[self._tab.chat], **self._draw.beginning(reader))
        return changes

    async def stopped(self, request: gr.Request) -> None:
        """End this page's answer."""
        self._talk.stop(reader_of(request).page)

    # ---- questions -------------------------------------------------------------------------------

    async def sent(self, request: gr.Request, message: str, *asked: Any) -> AsyncIterator[Changes]:
        """A message is sent; an empty one is not."""
        if message and message.strip():
            async for changes in self._ask(request, asked, lambda turns: talk.send(turns, message), message):
                yield changes

    async def starter_chosen(self, request: gr.Request, event: gr.SelectData, *asked: Any) -> AsyncIterator[Changes]:
        """A starter is clicked on: it is the first message."""
        text = str(event.value["text"])
        async for changes in self._ask(request, asked, lambda turns: talk.send(turns, text), text):
            yield changes

    async def retried(self, request: gr.Request, *asked: Any) -> AsyncIterator[Changes]:
        """The last answer anew."""
        async for changes in self._ask(request, asked, talk.retry):
            yield changes

    async def continued(self, request: gr.Request, *asked: Any) -> AsyncIterator[Changes]:
        """More of the last answer."""
        async for changes in self._ask(request, asked, talk.go_on):
            yield changes

    async def edited(self, request: gr.Request, event: gr.EditData, *asked: Any) -> AsyncIterator[Changes]:
        """A message has another text: a user's is answered anew, an assistant's stays as it was written."""
        reader, panel = reader_of(request), self._draw.panel(asked)
        position, text = event.index if isinstance(event.index, int) else event.index[0], as_written(str(event.value))
        turns = await asyncio.to_thread(self._kept.turns, reader.user.owner, panel.current)
        if 0 <= position < len(turns) and turns[position].role == "assistant":
            if not self._talk.is_running(reader.page):
                corrected = replace(turns[position], content=text)
                await asyncio.to_thread(self._kept.update, reader.user.owner, panel.current, corrected)
            yield await asyncio.to_thread(self._messages, reader, panel)
            return
        async for changes in self._ask(request, asked, lambda turns: talk.edit(turns, position, text)):
            yield changes

    async def undone(self, request: gr.Request, message: str, *asked: Any) -> Changes:
        """The last question and its answer go; the question is in the box again, unless something else is."""
        reader, panel = reader_of(request), self._draw.panel(asked)
        if not self._talk.is_running(reader.page):
            turns = await asyncio.to_thread(self._kept.turns, reader.user.owner, panel.current)
            position, text = talk.undo(turns)
            await asyncio.to_thread(self._kept.replace_from, reader.user.owner, panel.current, position, ())
            message = message or text
        return {**await asyncio.to_thread(self._messages, reader, panel), self._tab.message: message}

    async def _ask(
        self,
        request: gr.Request,
        asked: Sequence[Any],
        plan: Callable[[Sequence[Turn]], talk.Plan],
        text: str | None = None,
    ) -> AsyncIterator[Changes]:
        """Ask, and draw the answer as it comes. text: a message, which may begin a conversation."""
        reader, panel = reader_of(request), self._draw.panel(asked)
        if self._talk.is_running(reader.page):
            gr.Info(say(reader.language, "busy"), title="Octuor")
            return
        is_first = True
        shown = talk.Shown(None)
        try:
            conversation = await self._conversation(reader, panel, text)
            answer = self._talk.answer(reader.page, reader.user, conversation, panel.model, panel.settings, plan)
            async for shown in answer:
                changes = self._draw.answer(reader, shown, panel.card)
                if is_first:
                    changes[self._tab.current] = conversation.id
                    changes |= {} if text is None else {self._tab.message: ""}
                is_first = False
                yield changes
            if shown.live is not None:  # another conversation was chosen meanwhile, and is drawn already
                yield self._nothing
        except OctuorError as error:  # of the question itself: what was there stays
            yield await asyncio.to_thread(self._messages, reader, panel, str(error))

    async def _conversation(self, reader: Reader, panel: Panel, text: str | None) -> Conversation:
        """The one that is shown; a message begins one where none is. Raises UiError where there is none to be asked."""
        if not panel.model:
            raise UiError(say(reader.language, "no_model"))
        if not panel.current and text is not None:
            return await self._talk.begin(reader.user, text, panel.model, panel.settings)
        found = await asyncio.to_thread(self._kept.find, reader.user.owner, panel.current)
        if found is None:
            raise UiError(say(reader.language, "gone"))
        return found

    def _messages(self, reader: Reader, panel: Panel, error: str | None = None) -> Changes:
        """The messages as they are kept now."""
        return self._draw.answer(reader, self._draw.kept(reader, panel.current, error), panel.card)

    # ---- conversations ---------------------------------------------------------------------------

    async def picked(self, request: gr.Request, picked: str, cards: Sequence[ModelCard], search: str) -> Changes:
        """Another conversation is to be shown; an answer under way ends."""
        reader = reader_of(request)
        self._talk.leave(reader.page)
        found = await asyncio.to_thread(self._kept.find, reader.user.owner, picked.partition(" ")[0])
        return await asyncio.to_thread(self._draw.conversation, reader, cards, found, search)

    async def new(self, request: gr.Request, search: str) -> Changes:
        """An empty chat; the settings stay, and the conversation begins with its first message."""
        reader = reader_of(request)
        self._talk.leave(reader.page)
        return await asyncio.to_thread(self._draw.conversation, reader, (), None, search)

    def searched(self, request: gr.Request, search: str, current: str) -> str:
        """The list, narrowed."""
        return self._draw.list(reader_of(request), current, search)

    def named(self, request: gr.Request, current: str, search: str) -> Changes:
        """Another conversation is shown, or one has begun."""
        reader = reader_of(request)
        return self._draw.name(reader, self._kept.find(reader.user.owner, current), search)

    def renamed(self, request: gr.Request, title: str, current: str, search: str) -> Changes:
        """The title has another text; an empty one becomes what it was."""
        reader = reader_of(request)
        found = self._kept.find(reader.user.owner, current)
        if found is None or found.title == title.strip():
            return self._nothing
        if title.strip():
            self._kept.rename(reader.user.owner, current, title)
        return self._draw.name(reader, self._kept.find(reader.user.owner, current), search)

    async def deleted(self, request: gr.Request, current: str, search: str) -> Changes:
        """The conversation goes."""
        reader = reader_of(request)
        self._talk.leave(reader.page)
        await asyncio.to_thread(self._kept.delete, reader.user.owner, current)
        return await asyncio.to_thread(self._draw.conversation, reader, (), None, search)

    async def imported(self, request: gr.Request, path: str, cards: Sequence[ModelCard]) -> Changes:
        """A file was brought: it becomes a conversation of its own, or a note says what is wrong with it."""
        reader = reader_of(request)
        try:
            made = await asyncio.to_thread(_import, self._kept, reader.user.owner, Path(path))
        except UiError as error:
            gr.Warning(str(error), title=say(reader.language, "import"))
            return self._nothing
        self._talk.leave(reader.page)
        return await asyncio.to_thread(self._draw.conversation, reader, cards, made)

    # ---- settings --------------------------------------------------------------------------------

    def configured(self, request: gr.Request, *asked: Any) -> None:
        """A setting was changed: the conversation keeps it."""
        self._keep(reader_of(request), self._draw.panel(asked))

    def model_chosen(self, request: gr.Request, *asked: Any) -> Changes:
        """Another model: answers can be as long as its context."""
        panel = self._draw.panel(asked)
        self._keep(reader_of(request), panel)
        return self._draw.settings(panel.settings, panel.card)

    def reset(self, request: gr.Request, *asked: Any) -> Changes:
        """All settings are the defaults again."""
        panel = replace(self._draw.panel(asked), settings=ChatSettings())
        self._keep(reader_of(request), panel)
        return self._draw.settings(panel.settings, panel.card)

    def _keep(self, reader: Reader, panel: Panel) -> None:
        if panel.current:
            self._kept.configure(reader.user.owner, panel.current, panel.model, panel.settings)


def _import(conversations: Conversations, owner: str, path: Path) -> Conversation:
    """Read an uploaded file, which goes. Raises UiError that says what is wrong with it."""
    try:
        if path.stat().st_size > export.MAX_FILE:
            raise UiError(f"{path.name}: expected at most {export.MAX_FILE // 1_000_000} MB")
        text = path.read_text(encoding="utf-8", errors="replace")
    finally:
        path.unlink(missing_ok=True)
    return export.keep(conversations, owner, export.parse(text, path.name))
