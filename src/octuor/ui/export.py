"""A conversation as a file: Markdown to read, JSON to keep and to import again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from octuor.errors import UiError
from octuor.ui import settings as settings_module
from octuor.ui.backend import ChatSettings
from octuor.ui.conversations import (
    MAX_TITLE,
    Conversation,
    Conversations,
    Ending,
    Turn,
    check_size,
    checked_title,
    title_of,
)

FORMAT, VERSION = "octuor-conversation", 1
MAX_FILE = 8_000_000  # bytes
ENDINGS: tuple[Ending, ...] = ("stop", "length", "cancelled", "failed")
MAX_TOKENS = 2**31  # a count above this was never counted


@dataclass(frozen=True)
class Imported:
    """What a file holds, checked."""

    title: str
    model: str
    settings: ChatSettings
    turns: tuple[Turn, ...]


def to_markdown(conversation: Conversation, turns: tuple[Turn, ...]) -> str:
    """The conversation to be read: a heading, the system text as a quotation, and each message under its speaker."""
    made = datetime.fromtimestamp(conversation.created, UTC)
    parts = [f"# {conversation.title}", f"{made:%Y-%m-%d %H:%M} UTC · {conversation.model}"]
    if conversation.settings.system:
        parts.append("\n".join(f"> {line}".rstrip() for line in conversation.settings.system.splitlines()))
    for turn in turns:
        speaker = "User" if turn.role == "user" else turn.model or "Assistant"
        parts += [f"## {speaker}", turn.content.strip()]
    return "\n\n".join(parts) + "\n"


def to_json(conversation: Conversation, turns: tuple[Turn, ...]) -> str:
    """As `parse` reads it. Routing is not in it: it belongs to the weights and not to the words."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "title": conversation.title,
        "created": datetime.fromtimestamp(conversation.created, UTC).isoformat(timespec="seconds"),
        "model": conversation.model,
        "settings": settings_module.to_json(conversation.settings),
        "messages": [_message(turn) for turn in turns],
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def parse(text: str, name: str) -> Imported:
    """Read a conversation: our own, or any object with `messages`, each with a role and a content.

    A message of the role "system" before all others becomes the settings' text where those have none. name: the file's,
    for messages. Raises UiError that says what is wrong and where.
    """
    if len(text) > MAX_FILE or len(text.encode("utf-8", "replace")) > MAX_FILE:
        raise UiError(f"{name}: expected at most {MAX_FILE // 1_000_000} MB")
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else f"{error}"[:80]
        raise UiError(f"{name}: expected a conversation as JSON, which this is not ({reason})") from error
    if isinstance(document, list):
        document = {"messages": document}
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise UiError(f"{name}: expected a conversation, an object with a list of messages")
    if document.get("format", FORMAT) != FORMAT or document.get("version", VERSION) != VERSION:
        raise UiError(f"{name}: expected {FORMAT} of version {VERSION}; was it written by another version?")
    messages: list[Any] = document["messages"]
    settings = settings_module.from_json(document.get("settings", {}), name)
    if messages and isinstance(messages[0], dict) and messages[0].get("role") == "system":
        system = {"system": _text(messages[0], "content", f"{name}: message 1")}
        settings = settings if settings.system else settings_module.from_json({**_plain(settings), **system}, name)
        messages = messages[1:]
    turns = tuple(_turn(message, f"{name}: message {n}") for n, message in enumerate(messages, 1))
    if not turns:
        raise UiError(f"{name}: expected at least one message")
    check_size(0, turns)
    title = document.get("title", title_of(turns[0].content))
    if not isinstance(title, str):
        raise UiError(f"{name}: title: expected a text")
    model = document.get("model", "")
    if not isinstance(model, str) or len(model) > MAX_TITLE:
        raise UiError(f"{name}: model: expected a name of at most {MAX_TITLE} characters")
    return Imported(checked_title(title), _writable(model), settings, turns)


def keep(conversations: Conversations, owner: str, imported: Imported) -> Conversation:
    """Add what was imported to the owner's conversations, as a new one."""
    made = conversations.create(owner, imported.title, imported.model, imported.settings)
    conversations.replace_from(owner, made.id, 0, imported.turns)
    return made


def file_name(conversation: Conversation, ending: str) -> str:
    """A name for the file: the title's letters and digits."""
    words = "".join(c if c.isalnum() else " " for c in conversation.title).split()
    return f"{'-'.join(words)[:60].strip('-') or 'conversation'}.{ending}"


def _plain(settings: ChatSettings) -> dict[str, Any]:
    return settings_module.to_json(settings)


def _message(turn: Turn) -> dict[str, Any]:
    known = {
        "role": turn.role,
        "content": turn.content,
        "model": turn.model or None,
        "finish": turn.finish,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "tokens_per_s": turn.tokens_per_s,
    }
    return {key: value for key, value in known.items() if value is not None}


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise UiError(f"{where}: expected an object with role and content")
    role = message.get("role")
    if role not in ("user", "assistant"):
        raise UiError(f'{where}: role: expected "user" or "assistant"')
    content = _text(message, "content", where)
    if role == "user":
        return Turn("user", content)
    finish = message.get("finish")
    if finish is not None and finish not in ENDINGS:
        raise UiError(f"{where}: finish: expected one of {', '.join(ENDINGS)}")
    speed = message.get("tokens_per_s")
    if speed is not None and (not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 <= speed < 1e9):
        raise UiError(f"{where}: tokens_per_s: expected a number")
    model = message.get("model", "")
    if not isinstance(model, str) or len(model) > MAX_TITLE:
        raise UiError(f"{where}: model: expected a name of at most {MAX_TITLE} characters")
    return Turn(
        "assistant",
        content,
        finish=finish or "stop",
        model=_writable(model),
        prompt_tokens=_count(message, "prompt_tokens", where),
        completion_tokens=_count(message, "completion_tokens", where),
        tokens_per_s=None if speed is None else float(speed),
    )


def _text(message: dict[str, Any], key: str, where: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise UiError(f"{where}: {key}: expected a text")
    return _writable(value)


def _count(message: dict[str, Any], key: str, where: str) -> int | None:
    value = message.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_TOKENS):
        raise UiError(f"{where}: {key}: expected a count")
    return value


def _writable(text: str) -> str:
    """Halves of characters, which JSON can spell and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
