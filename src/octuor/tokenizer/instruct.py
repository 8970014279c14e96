"""The chat format that Mixtral-Instruct was trained on, built from ids message by message.

No string is assembled and tokenized afterwards: that would lose the blank before a reply ("▁Hi" would become
"Hi") and turn "</s>" inside a message into EOS. The rules, as in mistral-common:

    v1 files (8x7B, 7B)          BOS, then user "[INST] {content} [/INST]", assistant "{content}" EOS
    v2, v3 files (8x22B)         the same with [INST] and [/INST] as control ids around "{content}",
                                 and blanks at the end of an assistant's message dropped

System text goes before the first user message (v1) or the last one (v2, v3), with an empty line between.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from octuor.errors import TokenizerError
from octuor.tokenizer.base import Tokenizer

JOINT = "\n\n"  # between messages that become one
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation. Content is used as it is, blanks at its ends included (v1).

    role     "system", "user" or "assistant"
    prefix   only on a last, assistant message: the model continues it, so no EOS follows
    """

    role: str
    content: str
    prefix: bool = False


AnyMessage: TypeAlias = Message | Mapping[str, object]


@dataclass(frozen=True)
class Turn:
    """The ids of one side's words. An assistant's end with EOS unless it was a prefix; BOS is in none."""

    role: Literal["user", "assistant"]
    ids: list[int]


def as_message(value: AnyMessage) -> Message:
    """A message from the dictionary that chat APIs take: keys role, content and prefix, all others ignored.

    Content may be a string, None (empty) or a list of {"type": "text", "text": ...}, joined by an empty line
    as mistral-common does; the role "developer" is "system".

    Raises TokenizerError naming the key.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise TokenizerError(f"message: expected an object with role and content, found {type(value).__name__}")
    role = value.get("role")
    if not isinstance(role, str):
        raise TokenizerError(f"message role: expected one of {', '.join(ROLES)}, found {role!r}")
    return Message("system" if role == "developer" else role, _text(value.get("content")), value.get("prefix") is True)


def encode_chat(tokenizer: Tokenizer, messages: Sequence[AnyMessage]) -> list[int]:
    """Ids of a conversation for the model to continue: BOS, then every turn.

    Empty system and user messages add nothing to those they are joined with.

    Raises TokenizerError naming the message (counted from 0) if the conversation has no user message, two
    assistant messages in a row, a system message after an assistant's, a role of another name, or if it ends
    with an assistant message that is not a prefix.
    """
    parsed = [as_message(message) for message in messages]
    if parsed and parsed[-1].role == "assistant" and not parsed[-1].prefix:
        raise TokenizerError(
            f"messages[{len(parsed) - 1}]: expected the last message to be the user's, found an assistant's; "
            "set prefix to have it continued"
        )
    ids = [tokenizer.bos_id]
    for turn in encode_turns(tokenizer, parsed):
        ids += turn.ids
    return ids


def encode_turns(tokenizer: Tokenizer, messages: Sequence[AnyMessage]) -> list[Turn]:
    """The turns of a conversation, one by one, for training: it may end with an assistant's whole message.

    Raises TokenizerError as `encode_chat` does, but for the last message.
    """
    system, turns = _merge([as_message(message) for message in messages])
    begin_id, end_id = tokenizer.control_id("[INST]"), tokenizer.control_id("[/INST]")
    user_turns = [index for index, turn in enumerate(turns) if turn.role == "user"]
    with_system = user_turns[0] if begin_id is None else user_turns[-1]

    encoded = []
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            content = turn.content if begin_id is None else turn.content.rstrip(" ")
            end = [] if turn.prefix else [tokenizer.eos_id]
            encoded.append(Turn("assistant", tokenizer.encode(content) + end))
            continue
        content = system + JOINT + turn.content if system and index == with_system else turn.content
        if begin_id is None or end_id is None:
            encoded.append(Turn("user", tokenizer.encode(f"[INST] {content} [/INST]")))
        else:
            encoded.append(Turn("user", [begin_id, *tokenizer.encode(content), end_id]))
    return encoded


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text for a model without a chat format to continue: BOS, then the text."""
    return [tokenizer.bos_id, *tokenizer.encode(text)]


def _merge(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """System text apart, and users' messages in a row made one.

    A system message between two of the user's keeps them apart, as in mistral-common.
    """
    system: list[str] = []
    turns: list[tuple[Message, list[str]]] = []  # each with what its messages say
    previous, has_answer = "", False
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role not in ROLES:
            raise TokenizerError(
                f"{where}: expected the role {', '.join(ROLES)}, found {message.role!r}; "
                "the format has no others, put such text into a user or system message"
            )
        if message.prefix and (message.role != "assistant" or index != len(messages) - 1):
            raise TokenizerError(f"{where}: expected prefix only on a last, assistant message; drop it from this one")
        if message.role == "system":
            if has_answer:
                raise TokenizerError(
                    f"{where}: expected system messages before the first assistant message, "
                    "found one after it; move it to the front or make it the user's"
                )
            system.append(message.content)
        elif message.role == "assistant":
            if not turns:
                raise TokenizerError(f"{where}: expected a user message before the first assistant message, found none")
            if previous == "assistant":
                raise TokenizerError(f"{where}: expected a user message between two assistant messages; join the two")
            turns.append((message, [message.content]))
            has_answer = True
        elif previous == "user":
            turns[-1][1].append(message.content)
        else:
            turns.append((message, [message.content]))
        previous = message.role
    if not turns:
        raise TokenizerError(f"messages: expected at least one user message, found none in {len(messages)} messages")
    return _join(system), [replace(first, content=_join(contents)) for first, contents in turns]


def _join(contents: Iterable[str]) -> str:
    return JOINT.join(content for content in contents if content)


def _text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TokenizerError(f"message content: expected text or a list of text parts, found {type(content).__name__}")
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
        if not isinstance(text, str):
            raise TokenizerError(
                f'message content[{index}]: expected {{"type": "text", "text": ...}}, '
                f"found {str(part)[:60]!r}; Mixtral reads text only"
            )
        texts.append(text)
    return _join(texts)
