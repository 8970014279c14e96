"""One question, from the page to the answer that is kept: streaming, stopping, and what happens when it fails.

Knows no Gradio. A `Talk` is shared by all pages; each page has a name of its own, by which its answer can be stopped.
An answer is written to its conversation when it ends, is stopped or fails, when its page goes, and once a second
meanwhile, so that a page that is loaded again has what was said until then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from octuor.errors import OctuorError, UiError
from octuor.ui.backend import Ask, Backend, ChatSettings, Delta, Done, Message, User
from octuor.ui.conversations import Conversation, Conversations, Ending, Turn, check_size, title_of

KEPT_EVERY_S = 1.0
WAITING_EVERY_S = 0.5  # a page without news is told the time, and Gradio notices here that the page has gone
SPEED_AFTER_S = 0.3  # a speed from less is noise


@dataclass(frozen=True)
class Live:
    """How the answer under way goes. tokens_per_s: None until there is a speed; seconds: since the question."""

    tokens: int
    tokens_per_s: float | None
    seconds: float


@dataclass(frozen=True)
class Shown:
    """How the chat stands: what a page draws.

    live   None: no answer is under way
    error  one line, where the last question failed
    """

    conversation: Conversation | None
    turns: tuple[Turn, ...] = ()
    live: Live | None = None
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a question does to a conversation.

    kept    how many of its messages stay
    added   what comes after them, before the answer
    answer  to be written: id 0 is a new message, another one an answer that is given anew or gone on with
    before  the answer's text so far, which is gone on with; None: it begins anew
    """

    kept: int
    added: tuple[Turn, ...]
    answer: Turn
    before: str | None = None


def send(turns: Sequence[Turn], text: str) -> Plan:
    """A new message. Raises UiError if it is empty."""
    return Plan(len(turns), (_asked(text),), Turn("assistant", ""))


def retry(turns: Sequence[Turn]) -> Plan:
    """The last answer anew; the one that is there stays until the new one begins. UiError where nothing was asked."""
    last = _last(turns)
    if last.role == "user":
        return Plan(len(turns), (), Turn("assistant", ""))
    return Plan(len(turns), (), last)


def edit(turns: Sequence[Turn], position: int, text: str) -> Plan:
    """Another message in the place of a user's; all after it goes. Raises UiError if it is not a user's, or empty."""
    if not 0 <= position < len(turns) or turns[position].role != "user":
        raise UiError("this message is not there any more; load the page again")
    return Plan(position, (_asked(text),), Turn("assistant", ""))


def go_on(turns: Sequence[Turn]) -> Plan:
    """More of the last answer. Raises UiError if there is none."""
    last = _last(turns)
    if last.role == "user":
        return Plan(len(turns), (), Turn("assistant", ""))
    return Plan(len(turns), (), last, before=last.content)


def undo(turns: Sequence[Turn]) -> tuple[int, str]:
    """How many messages stay when the last question and its answer go, and the question's text."""
    for position in range(len(turns) - 1, -1, -1):
        if turns[position].role == "user":
            return position, turns[position].content
    return 0, ""


def messages_of(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The conversation as a model takes it: users and assistants in turn, so what one said twice is put together."""
    messages: list[Message] = []
    for turn in turns:
        if not turn.content:
            continue
        if messages and messages[-1].role == turn.role:
            messages[-1] = Message(turn.role, f"{messages[-1].content}\n\n{turn.content}")
        else:
            messages.append(Message(turn.role, turn.content))
    return tuple(messages)


class Pace:
    """When to tell the page more: at most 20 times a second, and more seldom where the answer is long or many go on.

    A browser draws the whole answer again each time, and the server works some milliseconds for it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at = -1e9
        self._told = 0

    def wait_s(self, characters: int, n_answers: int) -> float:
        """How long to wait until the next time; 0 or less: now, as with the first word."""
        if not self._told:
            return 0.0
        interval = (0.05 + 0.05 * min(characters / 8000, 4)) * max(1.0, n_answers / 4)
        return self._told_at + interval - self._clock()

    def told(self, characters: int) -> None:
        """The page has been told of so many."""
        self._told_at, self._told = self._clock(), characters


@dataclass
class _Answer:
    """An answer under way: what came of it, and the events that a change sets."""

    asked_at: float
    text: str = ""
    tokens: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    done: Done | None = None
    error: OctuorError | None = None
    is_left: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # at the end, or when it is stopped

    def end(self) -> None:
        """Wake whoever follows it."""
        self.over.set()
        self.changed.set()

    @property
    def tokens_per_s(self) -> float | None:
        """Measured here; the server's own figure comes with Done."""
        elapsed = self.last_at - (self.first_at or self.last_at)
        return (self.tokens - 1) / elapsed if elapsed > SPEED_AFTER_S else None


class Talk:
    """Asks the backend for pages, and keeps what was said. Used by one event loop."""

    def __init__(
        self, backend: Backend, conversations: Conversations, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.backend = backend
        self.conversations = conversations
        self._clock = clock
        self._running: dict[str, _Answer] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def is_running(self, page: str) -> bool:
        """Whether an answer is under way for this page."""
        return page in self._running

    def stop(self, page: str) -> None:
        """End the page's answer, which keeps what it has; nothing where there is none."""
        if (answer := self._running.get(page)) is not None:
            answer.end()

    def leave(self, page: str) -> None:
        """As `stop`, and no more is told of it: the page shows another conversation now."""
        if (answer := self._running.pop(page, None)) is not None:
            answer.is_left = True
            answer.end()

    async def answer(
        self,
        page: str,
        user: User,
        conversation: Conversation,
        model: str,
        settings: ChatSettings,
        plan: Callable[[Sequence[Turn]], Plan],
    ) -> AsyncGenerator[Shown, None]:
        """Ask and follow the answer; the last Shown has no `live`, unless the page went on to another conversation.

        Closed early, the answer ends and is kept as stopped.

        conversation  there already: `begin` makes a new one
        Raises UiError where nothing was asked: the plan cannot be followed, or this page has an answer under way.
        """
        if page in self._running:
            raise UiError("an answer is under way; stop it first")
        running = self._running[page] = _Answer(self._clock())
        try:
            owner = user.owner
            turns = await asyncio.to_thread(self.conversations.turns, owner, conversation.id)
            planned = plan(turns)
            kept = await asyncio.to_thread(self._write_down, owner, conversation, model, settings, turns, planned)
            *before, answer = kept
            ask = Ask(
                model,
                messages_of([*before, *([answer] if planned.before is not None else [])]),
                settings,
                continues=planned.before is not None and bool(answer.content),
            )
            writer = _Writer(self.conversations, owner, conversation.id, replace(answer, model=model), planned)
            pump = asyncio.create_task(self._pump(user, ask, running))
            try:
                async for turn, live in self._follow(running, writer):
                    if not running.is_left:
                        yield Shown(conversation, (*before, turn), live)
                pump.cancel()
                final = await asyncio.to_thread(writer.finish, running)
                error = None if running.error is None else str(running.error)
                if not running.is_left:
                    yield Shown(conversation, (*before, *final), None, error)
            finally:
                if not pump.cancelling():  # a second time would cut short what the backend does to end its work
                    pump.cancel()
                writer.finish(running)  # the page has gone: once, and at once
                if not pump.done():  # the page need not wait until the backend has ended its work
                    self._ending.add(pump)
                    pump.add_done_callback(self._ending.discard)
            if pump.done() and not pump.cancelled() and (bug := pump.exception()) is not None:
                raise bug
        finally:
            if self._running.get(page) is running:
                del self._running[page]

    async def begin(self, user: User, text: str, model: str, settings: ChatSettings) -> Conversation:
        """A new conversation, named after its first message. Raises UiError if that is empty or too long."""
        check_size(0, [_asked(text)])
        return await asyncio.to_thread(self.conversations.create, user.owner, title_of(text), model, settings)

    def _write_down(
        self,
        owner: str,
        conversation: Conversation,
        model: str,
        settings: ChatSettings,
        turns: Sequence[Turn],
        plan: Plan,
    ) -> tuple[Turn, ...]:
        """Keep the question before it is asked; all turns, the answer last."""
        self.conversations.configure(owner, conversation.id, model, settings)
        if plan.answer.id:
            return (*turns[:-1], plan.answer)
        added = self.conversations.replace_from(owner, conversation.id, plan.kept, [*plan.added, plan.answer])
        if added is None:
            raise UiError("this conversation has been deleted meanwhile")
        return (*turns[: plan.kept], *added)

    async def _pump(self, user: User, ask: Ask, running: _Answer) -> None:
        """Take what comes. Cancelled, it closes the backend's answer, which ends the work."""
        try:
            async with aclosing(self.backend.chat(user, ask)) as parts:
                async for part in parts:
                    if isinstance(part, Delta):
                        running.text += part.text
                        running.tokens += 1
                        running.last_at = self._clock()
                        running.first_at = running.first_at or running.last_at
                        running.changed.set()
                    else:
                        running.done = part
        except OctuorError as error:
            running.error = error
        finally:
            running.end()

    async def _follow(self, running: _Answer, writer: _Writer) -> AsyncGenerator[tuple[Turn, Live], None]:
        """The answer as far as it is, again and again until it ends or is stopped."""
        pace, kept_at = Pace(self._clock), self._clock()
        while not running.over.is_set():
            pace.told(len(running.text))
            yield writer.turn(running), Live(running.tokens, running.tokens_per_s, self._clock() - running.asked_at)
            if running.text and self._clock() - kept_at > KEPT_EVERY_S:
                await asyncio.to_thread(writer.keep, running)
                kept_at = self._clock()
            running.changed.clear()
            if not running.over.is_set():
                await _until(running.changed, WAITING_EVERY_S)
            await _until(running.over, pace.wait_s(len(running.text), len(self._running)))


class _Writer:
    """Writes one answer to its conversation."""

    def __init__(self, conversations: Conversations, owner: str, conversation: str, answer: Turn, plan: Plan) -> None:
        self._conversations = conversations
        self._owner = owner
        self._conversation = conversation
        self._old = plan.answer
        self._answer = answer
        self._before = plan.before or ""
        self._is_new = plan.answer.id == 0
        self._final: tuple[Turn, ...] | None = None

    def turn(self, running: _Answer) -> Turn:
        """The answer as it stands, without an end."""
        return replace(self._answer, content=self._before + running.text, finish=None)

    def keep(self, running: _Answer) -> None:
        """Write what there is, as an answer that was stopped: a process that is killed now leaves just that."""
        self._conversations.update(self._owner, self._conversation, replace(self.turn(running), finish="cancelled"))

    def finish(self, running: _Answer) -> tuple[Turn, ...]:
        """Write the end, the first time it is called; the answer, or the one that was there before, or nothing."""
        if self._final is not None:
            return self._final
        if not running.text and running.done is None:  # stopped or failed before it began
            if self._is_new:
                self._conversations.forget(self._owner, self._conversation, self._answer.id)
            self._final = () if self._is_new else (self._old,)
            return self._final
        turn = self._ended(running)
        self._conversations.update(self._owner, self._conversation, turn)
        self._final = (replace(turn, routing=None, has_routing=turn.routing is not None),)
        return self._final

    def _ended(self, running: _Answer) -> Turn:
        done = running.done
        finish: Ending = "cancelled"
        if running.error is not None:
            finish = "failed"
        elif done is not None:
            finish = done.reason
        earlier = (self._old.completion_tokens or 0) if self._before else 0
        said = running.tokens if done is None or done.completion_tokens is None else done.completion_tokens
        prompt = None if done is None else done.prompt_tokens
        return replace(
            self.turn(running),
            finish=finish,
            prompt_tokens=None if prompt is None else max(prompt - earlier, 0),
            completion_tokens=earlier + said,
            tokens_per_s=running.tokens_per_s if done is None else done.tokens_per_s or running.tokens_per_s,
            routing=None if done is None else done.routing,
        )


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long; not at all where seconds is 0 or less."""
    if seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _asked(text: str) -> Turn:
    if not text.strip():
        raise UiError("the message is empty")
    return Turn("user", text)


def _last(turns: Sequence[Turn]) -> Turn:
    if not turns:
        raise UiError("nothing has been asked yet")
    return turns[-1]
