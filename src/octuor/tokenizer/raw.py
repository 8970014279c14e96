"""Prompts whose writer puts the control tokens into the text: "<s>[INST] Hello [/INST] Hi!</s> [INST] Bye [/INST]".

That is how programs for TGI talk to Mixtral: there is no list of messages, so the text itself carries the marks.
Here, and nowhere else, "<s>" and "</s>" in a text are the control tokens of these names; v2 and v3 files have more,
"[INST]" among them. "<unk>" stays text: the model has never seen its id.

SentencePiece puts a blank before every text it encodes. The model learned from messages that were encoded one by
one, so what follows a control token begins with exactly one blank, written or not: "</s> [INST]" and "</s>[INST]"
are both 2 733 16289 28793. Others encode what follows as if it were all: the tokenizers library has a blank too many
in the first (2 28705 733), transformers without `legacy` none in the second (2 28792). Further blanks are kept. So a
conversation written as a raw prompt has the ids that `encode_chat` gives the same messages.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from octuor.tokenizer.base import Tokenizer

_END_OF_INSTRUCTION = "[/INST]"
_UNKNOWN = "<unk>"


@dataclass(frozen=True)
class RawPrompt:
    """The ids of a raw prompt.

    ids     BOS among them: the text's own, or one put before it
    spoken  parts of ids that the model said in earlier turns, their EOS included
    """

    ids: list[int]
    spoken: tuple[range, ...] = ()


@dataclass(frozen=True)
class Span:
    """One id and the characters it stands for, text[start:stop]; none for a BOS that the text lacks.

    An id that is only a part of a character stands for the whole of it.
    """

    id: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Part:
    """Text that is encoded by itself, and the control token after it.

    start      its first character in the prompt, the blank that encode adds among them if it was written
    text       without that blank
    blanks     1 where it was written, else 0
    end        id of the control token, None where there is none; name its text, "" there
    is_spoken  the model said it
    """

    start: int
    text: str
    blanks: int
    end: int | None = None
    name: str = ""
    is_spoken: bool = False


def encode_raw(tokenizer: Tokenizer, text: str, *, add_bos: bool = True) -> RawPrompt:
    """The ids of a raw prompt; a leading "<s>" is its BOS.

    add_bos  put one before a text that has none

    Raises TokenizerError if the text holds a lone surrogate.
    """
    ids = [tokenizer.bos_id] if add_bos and not _begins_with_bos(tokenizer, text) else []
    spoken: list[range] = []
    for part in _parts(tokenizer, text):
        begin = len(ids)
        ids += tokenizer.encode(part.text)
        if part.end is not None:
            ids.append(part.end)
        if part.is_spoken:
            spoken.append(range(begin, len(ids)))
    return RawPrompt(ids, tuple(spoken))


def locate_raw(tokenizer: Tokenizer, text: str, *, add_bos: bool = True) -> list[Span]:
    """The ids of `encode_raw`, each with its characters.

    Raises TokenizerError if the text holds a lone surrogate.
    """
    spans = [Span(tokenizer.bos_id, 0, 0)] if add_bos and not _begins_with_bos(tokenizer, text) else []
    for part in _parts(tokenizer, text):
        spans += _spans(tokenizer, tokenizer.encode(part.text), part.start, blanks=part.blanks)
        if part.end is not None:
            stop = part.start + part.blanks + len(part.text)
            spans.append(Span(part.end, stop, stop + len(part.name)))
    return spans


def decode_raw(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ids with control tokens by their names, without the blanks that encode adds: encode_raw's inverse.

    Raises RequestError on an id outside the tokenizer's range.
    """
    texts = RawDetokenizer(tokenizer)
    return "".join(map(texts.push, ids)) + texts.flush()


class RawDetokenizer:
    """`decode_raw` one id at a time: the texts, joined, read as the whole.

    An id that leaves a character unfinished has the text "", the one that completes it has the character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = control_names(tokenizer)
        self._front: bytes | None = b""  # what encode may have added; None: past the front
        self._after_control = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text of one more id. Raises RequestError on an id outside the tokenizer's range."""
        name = self._names.get(token_id)
        if name is not None:
            self._front, self._after_control = b"", True
            return self.flush() + name
        data = self._tokenizer.piece_bytes(token_id)
        return self._decoder.decode(data if self._front is None else self._pass_front(self._front + data))

    def flush(self) -> str:
        """The end of the text: "" or U+FFFD for a character that never became whole."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def _pass_front(self, data: bytes) -> bytes:
        if data in (b"", b" "):
            self._front = data
            return b""
        self._front = None
        if self._after_control and data.startswith(b"  "):
            return data  # encode_raw takes the first of them for the one that encode adds
        return data.removeprefix(b" ")


def control_names(tokenizer: Tokenizer) -> dict[int, str]:
    """Id to name of every control token."""
    return {token_id: name for name, token_id in tokenizer.control_ids.items()}


def _begins_with_bos(tokenizer: Tokenizer, text: str) -> bool:
    return any(
        token_id == tokenizer.bos_id and text.startswith(name) for name, token_id in tokenizer.control_ids.items()
    )


def _parts(tokenizer: Tokenizer, text: str) -> Iterator[_Part]:
    control_ids = tokenizer.control_ids
    names = sorted((name for name in control_ids if name and name != _UNKNOWN), key=len, reverse=True)
    start, previous = 0, ""
    for found in re.finditer("|".join(map(re.escape, names)), text):
        name = found.group()
        begin, is_spoken = start, False
        if control_ids[name] == tokenizer.eos_id:
            mark = text.rfind(f"{_END_OF_INSTRUCTION} ", start, found.start())
            if mark >= 0:
                begin = mark + len(_END_OF_INSTRUCTION)
                yield _part(text, start, begin)
            is_spoken = mark >= 0 or previous == _END_OF_INSTRUCTION
        yield _part(text, begin, found.start(), control_ids[name], name, is_spoken=is_spoken)
        start, previous = found.end(), name
    yield _part(text, start, len(text))


def _part(
    text: str, start: int, stop: int, end: int | None = None, name: str = "", *, is_spoken: bool = False
) -> _Part:
    blanks = int(start > 0 and text.startswith(" ", start, stop))
    return _Part(start, text[start + blanks : stop], blanks, end, name, is_spoken)


def _spans(tokenizer: Tokenizer, ids: Sequence[int], start: int, *, blanks: int) -> Iterator[Span]:
    """Where the ids of a text lie that encode put a blank before, which the prompt has at start if blanks is 1."""
    n_begun = start + blanks - 1  # characters that have begun; the blank is the first
    for token_id in ids:
        data = tokenizer.piece_bytes(token_id)
        first = n_begun - _is_inside(data[0])
        n_begun += sum(not _is_inside(byte) for byte in data)
        yield Span(token_id, max(first, start), max(n_begun, start))


def _is_inside(byte: int) -> bool:
    """Whether a byte of UTF-8 continues a character."""
    return byte & 0xC0 == 0x80
