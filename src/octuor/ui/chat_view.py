"""What the chat looks like, as plain values and HTML: messages, the list of conversations, the line below the chat.

Everything that people or models wrote is escaped here, but for the messages themselves: those are Markdown without
HTML, which the Chatbot component renders, and cleans once more, in the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Any, Literal

from octuor.ui.backend import ModelCard
from octuor.ui.conversations import Conversation
from octuor.ui.markdown import without_html
from octuor.ui.talk import Live, Shown
from octuor.ui.texts import Language, number, say

STARTERS = ("starter_1", "starter_2", "starter_3")


@dataclass(frozen=True)
class Latex:
    """What stands around formulas."""

    left: str
    right: str
    is_block: bool


LATEX = (
    Latex("$$", "$$", is_block=True),
    Latex("\\[", "\\]", is_block=True),
    Latex("\\(", "\\)", is_block=False),
    Latex("$", "$", is_block=False),
)


def chat_messages(shown: Shown, language: Language) -> list[dict[str, Any]]:
    """What the Chatbot component takes. Its n-th message is the n-th turn; an error comes after all of them."""
    messages = [_message(turn.role, without_html(turn.content)) for turn in shown.turns]
    if shown.live is not None and messages and not messages[-1]["content"][0]["text"]:
        messages[-1] = _message("assistant", '<span class="waiting"><i></i><i></i><i></i></span>')
    if shown.error is not None:
        title, line = escape(say(language, "failed")), " ".join(escape(shown.error).split())
        messages.append(_message("assistant", f'<div class="failed"><b>{title}</b> {line}</div>'))
    return messages


def status_html(shown: Shown, language: Language, model: ModelCard | None) -> str:
    """Speed, tokens used of the context, why the answer ended; while it goes on, how it goes. "" before all messages.

    By its classes the style sheet knows what can be done next: stop what is "live"; retry, undo, continue what has
    "ended"; retry and undo what was "asked" and has no answer.
    """
    if shown.live is not None:
        return _line([(f"live {name}", text) for name, text in _live(shown.live, language)])
    last = shown.turns[-1] if shown.turns else None
    if last is None:
        return ""
    if last.role != "assistant":
        return _line([("asked", "")])
    parts = []
    if last.tokens_per_s is not None:
        parts.append(("speed", _speed(last.tokens_per_s, language)))
    if last.completion_tokens is not None:
        parts.append(("answered", say(language, "answered", n=number(language, last.completion_tokens))))
    if last.prompt_tokens is not None and last.completion_tokens is not None:
        parts.append(("context", _used(last.prompt_tokens + last.completion_tokens, language, model)))
    ending = last.finish or "cancelled"
    parts.append((f"ended {ending}", say(language, f"ended_{ending}")))
    return _line(parts)


def conversations_html(
    conversations: Sequence[Conversation], current: str, language: Language, now: datetime, *, is_search: bool
) -> str:
    """The list: a button for each, under headings by the day when it was last written to.

    current  the id of the one that is shown, which page.js reads from here too
    now      in local time
    """
    parts, heading = [], ""
    for conversation in conversations:
        day = say(language, _day(datetime.fromtimestamp(conversation.updated, now.tzinfo), now))
        if day != heading:
            parts += ["</ul>" if heading else "", f"<h3>{escape(day)}</h3><ul>"]
            heading = day
        title = " ".join(escape(conversation.title).split())
        mark = ' class="current"' if conversation.id == current else ""
        parts.append(f'<li><button type="button" id="c-{conversation.id}" title="{title}"{mark}>{title}</button></li>')
    if not conversations:
        parts.append(f"<p>{escape(say(language, 'nothing_found' if is_search else 'nothing_kept'))}</p>")
    name = escape(say(language, "conversations"))
    # the Markdown component lets id, class and title through, and page.js makes of them what should be there
    return f'<nav id="shown-{current}" title="{name}">{"".join(parts)}{"</ul>" if heading else ""}</nav>'


def _message(role: Literal["user", "assistant"], text: str) -> dict[str, Any]:
    # as content in parts: the Chatbot would take the indentation off a plain text
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _live(live: Live, language: Language) -> list[tuple[str, str]]:
    if not live.tokens:
        return [("waits", say(language, "waiting", seconds=number(language, live.seconds)))]
    parts = [("answered", say(language, "answered", n=number(language, live.tokens)))]
    if live.tokens_per_s is not None:
        parts.insert(0, ("speed", _speed(live.tokens_per_s, language)))
    return parts


def _speed(tokens_per_s: float, language: Language) -> str:
    return say(language, "speed", speed=number(language, tokens_per_s, 1 if tokens_per_s < 100 else 0))


def _used(tokens: int, language: Language, model: ModelCard | None) -> str:
    if model is None or model.context is None:
        return say(language, "context_used", used=number(language, tokens))
    return say(language, "context_of", used=number(language, tokens), context=number(language, model.context))


def _line(parts: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<span class="{name}">{escape(text)}</span>' for name, text in parts)


def _day(then: datetime, now: datetime) -> str:
    days = (now.date() - then.date()) / timedelta(days=1)
    return "today" if days <= 0 else "yesterday" if days <= 1 else "week" if days < 7 else "older"
