"""From packed text to rows of token ids: tokenizing once, then a mixture that can be resumed.

A source is one file DIR/NAME.jsonl[.xz] of rows {"text"} or {"messages"}. Its ids are kept beside the
run as one .npz, so that only the first start tokenizes.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from octuor.errors import CheckpointError, ConfigError, TokenizerError
from octuor.tokenizer import Tokenizer, encode_turns
from octuor.train.recipe import Recipe, Stage

MIN_PIECE = 16  # a document cut shorter than this at the end of a row teaches little; the row is begun anew


@dataclass(frozen=True)
class Source:
    """All documents of one file.

    ids      [N] uint16  documents one after another, each with its BOS and EOS
    learned  [N] bool    whether the loss counts this token: all of a text but BOS, the answers of a talk
    offsets  [M + 1]     document m is ids[offsets[m] : offsets[m + 1]]
    """

    name: str
    ids: NDArray[np.uint16]
    learned: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1


def encode_document(tokenizer: Tokenizer, row: dict[str, Any]) -> tuple[list[int], list[bool]]:
    """Ids of one row and which of them the loss counts."""
    ids, learned = [tokenizer.bos_id], [False]
    if "messages" in row:
        for turn in encode_turns(tokenizer, row["messages"]):
            ids += turn.ids
            learned += [turn.role == "assistant"] * len(turn.ids)
        return ids, learned
    words = tokenizer.encode(row["text"])
    return [*ids, *words, tokenizer.eos_id], [*learned, *[True] * len(words), True]


def open_text(path: Path) -> TextIO:
    """Open a text file, packed with xz where its name says so."""
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def find_file(directory: Path, name: str) -> Path:
    """The file of source `name`, packed or not."""
    for suffix in (".jsonl.xz", ".jsonl"):
        if (path := directory / f"{name}{suffix}").is_file():
            return path
    raise CheckpointError(f"training data: expected {name}.jsonl or {name}.jsonl.xz in {directory}, found neither")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl[.xz] file; CheckpointError names the line that is no row, or the damaged file."""
    with open_text(path) as lines:
        try:
            for number, line in enumerate(lines, 1):
                yield _row(line, f"{path}:{number}")
        except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: expected whole UTF-8 text ({error}); fetch the file again") from error


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where}: expected one JSON object a line ({error})") from error
    if not isinstance(row, dict) or not (isinstance(row.get("messages"), list) or isinstance(row.get("text"), str)):
        raise CheckpointError(f'{where}: expected an object with "text" or "messages", found {line.strip()[:60]}')
    return row


def load_source(directory: Path, name: str, tokenizer: Tokenizer, kept: Path) -> Source:
    """Read a source from its .npz in `kept`, or tokenize it and leave the .npz there for the next start."""
    path = find_file(directory, name)
    stamp = f"{path.stat().st_size} {tokenizer.n_words}"
    saved = kept / f"{name.replace('/', '-')}.npz"
    if saved.is_file():
        with np.load(saved) as arrays:
            if str(arrays["stamp"]) == stamp:
                return Source(name, arrays["ids"], arrays["learned"], arrays["offsets"])
    ids: list[NDArray[np.uint16]] = []
    learned: list[NDArray[np.bool_]] = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            document, counts = encode_document(tokenizer, row)
        except TokenizerError as error:
            raise TokenizerError(f"{path}:{number}: {error}") from error
        ids.append(np.array(document, dtype=np.uint16))
        learned.append(np.array(counts, dtype=bool))
    if not ids:
        raise ConfigError(f"{path}: expected at least one row, found an empty file")
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)
    source = Source(name, np.concatenate(ids), np.concatenate(learned), offsets)
    kept.mkdir(parents=True, exist_ok=True)
    partial = saved.with_name(saved.name + ".partial.npz")
    np.savez(partial, ids=source.ids, learned=source.learned, offsets=source.offsets, stamp=np.array(stamp))
    partial.replace(saved)
    return source


def load_sources(
    recipe: Recipe, directory: Path, tokenizer: Tokenizer, kept: Path, on_source: Callable[[str, int], None] | None
) -> dict[str, Source]:
    """All sources of a recipe; on_source(name, tokens) is called as each is ready."""
    sources = {}
    for name in recipe.sources:
        sources[name] = load_source(directory, name, tokenizer, kept)
        if on_source is not None:
            on_source(name, len(sources[name].ids))
    return sources


class TokenStream:
    """An endless, resumable mixture of documents, packed into rows.

    Each source is gone through in an order shuffled anew each time around; the next document's source is
    drawn so that a stage's weights are shares of tokens. The same seed and state give the same rows.
    """

    def __init__(self, sources: dict[str, Source], stages: tuple[Stage, ...], seq_len: int, seed: int) -> None:
        self._sources = sources
        self._seq_len = seq_len
        self._seed = seed
        self._names = sorted(sources)
        self._shares = [self._document_shares(stage) for stage in stages]
        self._random = np.random.default_rng(seed)
        self._taken = dict.fromkeys(self._names, 0)  # documents handed out so far
        self._orders: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def row(self, stage: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """One row: ids [seq_len + 1] int32 and learned [seq_len] bool, of the token that follows each."""
        ids = np.empty(self._seq_len + 1, dtype=np.int32)
        learned = np.empty(self._seq_len + 1, dtype=bool)
        filled = 0
        while filled < len(ids):
            source, start, end = self._next_document(stage)
            n = min(end - start, len(ids) - filled)
            ids[filled : filled + n] = source.ids[start : start + n]
            learned[filled : filled + n] = source.learned[start : start + n]
            if n < min(end - start, MIN_PIECE):
                learned[filled : filled + n] = False
            filled += n
        return ids, learned[1:]

    def state(self) -> dict[str, Any]:
        """Everything that decides the rows to come, as JSON values."""
        return {"taken": dict(self._taken), "random": self._random.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._taken = dict.fromkeys(self._names, 0) | state["taken"]
        self._random.bit_generator.state = state["random"]

    def _document_shares(self, stage: Stage) -> NDArray[np.float64]:
        shares = np.zeros(len(self._names))
        for name, weight in stage.weights.items():
            source = self._sources[name]
            shares[self._names.index(name)] = weight * source.n_documents / len(source.ids)
        return shares / shares.sum()

    def _next_document(self, stage: int) -> tuple[Source, int, int]:
        index = int(self._random.choice(len(self._names), p=self._shares[stage]))
        name = self._names[index]
        source = self._sources[name]
        epoch, place = divmod(self._taken[name], source.n_documents)
        self._taken[name] += 1
        if name not in self._orders or self._orders[name][0] != epoch:
            order = np.random.default_rng([self._seed, index, epoch]).permutation(source.n_documents)
            self._orders[name] = (epoch, order)
        document = int(self._orders[name][1][place])
        return source, int(source.offsets[document]), int(source.offsets[document + 1])
