"""Which tokens a model is measured on: passages of a text, most to measure with and some held out to judge by.

Octuor's own text, calibration.txt beside this file, was written for it: 32 passages of prose, talk, news, lessons and
code in five languages, 4,200 tokens. It says little of any one trade; a text of what the model is for serves better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.base import Checkpoint
from octuor.errors import RequestError
from octuor.tokenizer.registry import open_tokenizer
from octuor.tools.text_file import read_start

Ids = NDArray[np.int32]

OWN_TEXT = Path(__file__).with_name("calibration.txt")
SEPARATOR = "\n----\n"  # between passages of a text; one without is cut into windows
WINDOW = 512  # tokens of a passage at most, BOS included
HELD_OUT_EVERY = 4  # the last of each four passages judges
MAX_TOKENS, MAX_HELD_OUT = 8192, 2048
MAX_CHARACTERS = 4 << 20  # of a text that are read
FEWEST = 64  # tokens in all that say anything
RANDOM_PASSAGES, RANDOM_LENGTH = 12, 256  # for a model without a tokenizer


@dataclass(frozen=True)
class Corpus:
    """Passages as ids, each with BOS where the tokenizer has one.

    calibration  what statistics and sensitivities are measured on
    held_out     what the report's figures are of; no passage is in both
    label        where the text is from, for the report
    """

    calibration: tuple[Ids, ...]
    held_out: tuple[Ids, ...]
    label: str

    @property
    def digest(self) -> str:
        """The same for the same tokens."""
        parts = [ids.tobytes() + b"|" for ids in (*self.calibration, np.zeros(0, np.int32), *self.held_out)]
        return sha256(b"".join(parts)).hexdigest()


def read_corpus(checkpoint: Checkpoint, path: Path | None = None) -> Corpus:
    """A UTF-8 text file's tokens in the checkpoint's own tokenizer; None: Octuor's own text.

    A checkpoint without a tokenizer is measured on random ids, which tell of its weights but not of language.
    Raises RequestError where there is no such text or too little of it.
    """
    if checkpoint.tokenizer is None:
        if path is not None:
            raise RequestError(
                f"{path}: expected a model with a tokenizer to read it with, {checkpoint.source} has none; "
                "leave the text out to measure on random ids"
            )
        return split(_random_passages(checkpoint.config.vocab_size), "random ids, for the model has no tokenizer")
    tokenizer = open_tokenizer(checkpoint.tokenizer)
    if tokenizer.n_words > checkpoint.config.vocab_size:
        raise RequestError(
            f"{checkpoint.source}: expected a tokenizer of at most {checkpoint.config.vocab_size} words, found "
            f"{tokenizer.n_words}; put the model's own beside it"
        )
    passages: list[Ids] = []
    for text in read_start(path or OWN_TEXT, MAX_CHARACTERS).split(SEPARATOR):
        ids = tokenizer.encode(text.strip("\n"))
        for start in range(0, len(ids), WINDOW - 1):
            passages.append(np.array([tokenizer.bos_id, *ids[start : start + WINDOW - 1]], dtype=np.int32))
    found = sum(map(len, passages))
    if found < FEWEST:
        raise RequestError(
            f"{path}: expected a text of {FEWEST} tokens, better some thousands, found {found}; name a longer one"
        )
    return split(passages, "Octuor's own text" if path is None else path.name)


def split(passages: Sequence[Ids], label: str) -> Corpus:
    """Every fourth passage held out; a text of a few passages is cut in quarters, a long one thinned out evenly."""
    if len(passages) < HELD_OUT_EVERY:
        passages = np.array_split(np.concatenate(passages), HELD_OUT_EVERY)
    passages = [ids for ids in passages if len(ids) > 1]  # one token predicts none
    groups = len(passages) // HELD_OUT_EVERY
    share = min(1.0, (MAX_TOKENS + MAX_HELD_OUT) / sum(map(len, passages)))
    taken = {int(n / share) for n in range(max(int(groups * share), 1))}
    kept = [ids for n, ids in enumerate(passages) if n // HELD_OUT_EVERY in taken or share == 1]
    judging = slice(HELD_OUT_EVERY - 1, None, HELD_OUT_EVERY)
    held_out = kept[judging]
    del kept[judging]
    return Corpus(tuple(kept), tuple(held_out), label)


def _random_passages(vocab_size: int) -> list[Ids]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab_size, RANDOM_LENGTH, dtype=np.int32) for _ in range(RANDOM_PASSAGES)]
