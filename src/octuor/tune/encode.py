"""Rows to token ids, and which of them the loss counts: answers with their ends, and texts.

The ids are those of tokenizer/instruct.py, turn by turn, so a mask's edges are exactly where turns meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.errors import TokenizerError
from octuor.tokenizer import Message, Tokenizer
from octuor.tokenizer.instruct import encode_turns
from octuor.tune.rows import Pair, Row, Talk, Text


@dataclass(frozen=True)
class Piece:
    """One sequence.

    ids      [n] int32   BOS first
    learned  [n] bool    whether the loss counts this token; never BOS
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]

    def cut(self, n: int) -> Piece:
        """Its first n tokens."""
        return Piece(self.ids[:n], self.learned[:n])


@dataclass(frozen=True)
class Example:
    """What a row becomes: one sequence, or of a preference two, the better one first."""

    pieces: tuple[Piece, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of a forward pass: each piece but its last."""
        return sum(len(piece.ids) - 1 for piece in self.pieces)

    @property
    def n_longest(self) -> int:
        """Tokens of the longest piece."""
        return max(len(piece.ids) for piece in self.pieces)

    @property
    def is_empty(self) -> bool:
        """Whether a piece has nothing to learn."""
        return not all(piece.learned[1:].any() for piece in self.pieces)

    def cut(self, n: int) -> Example:
        """With each piece cut to n tokens."""
        return Example(tuple(piece.cut(n) for piece in self.pieces))


def encode_row(tokenizer: Tokenizer, row: Row) -> Example:
    """One row's sequences.

    Raises TokenizerError where the messages' order has no place in the format, or nothing is to be learned.
    """
    match row:
        case Talk():
            example = Example((_talk(tokenizer, row.messages),))
        case Text():
            words = tokenizer.encode(row.text)
            ids = [tokenizer.bos_id, *words, tokenizer.eos_id]
            example = Example((_piece(ids, [False, *[True] * len(words), True]),))
        case Pair():
            example = Example(tuple(_answered(tokenizer, row, answer) for answer in (row.chosen, row.rejected)))
    if example.is_empty:
        raise TokenizerError("expected an answer to learn, found none")
    return example


def _talk(tokenizer: Tokenizer, messages: tuple[Message, ...]) -> Piece:
    ids, learned = [tokenizer.bos_id], [False]
    for turn in encode_turns(tokenizer, messages):
        ids += turn.ids
        learned += [turn.role == "assistant"] * len(turn.ids)
    return _piece(ids, learned)


def _answered(tokenizer: Tokenizer, row: Pair, answer: str) -> Piece:
    """The prompt with an answer, of which alone the loss counts."""
    *before, last = encode_turns(tokenizer, [*row.prompt, Message("assistant", answer)])
    ids = [tokenizer.bos_id, *(token for turn in before for token in turn.ids)]
    return _piece([*ids, *last.ids], [False] * len(ids) + [True] * len(last.ids))


def _piece(ids: list[int], learned: list[bool]) -> Piece:
    return Piece(np.array(ids, dtype=np.int32), np.array(learned, dtype=bool))
