"""A recipe's data: read, checked for what cannot be learned, encoded, held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from octuor.errors import ConfigError, TokenizerError
from octuor.tokenizer import Tokenizer
from octuor.tune.encode import Example, encode_row
from octuor.tune.recipe import TuneRecipe
from octuor.tune.rows import Pair, Problem, Row, read_file


@dataclass(frozen=True)
class Split:
    """Rows and what they became, in the same order; too_long: how many were cut.

    problems  rows that are left out, and why
    """

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...]
    lengths_before: tuple[int, ...]  # tokens of each row's longest sequence, before it was cut

    @property
    def lengths(self) -> list[int]:
        """Tokens that each example costs."""
        return [example.n_tokens for example in self.examples]


@dataclass(frozen=True)
class Dataset:
    """What a run learns from and is measured on."""

    train: Split
    validation: Split

    @property
    def digest(self) -> str:
        """Of every id and mask: two runs with the same have seen the same."""
        found = hashlib.sha256()
        for split in (self.train, self.validation):
            found.update(b"split")
            for example in split.examples:
                for piece in example.pieces:
                    found.update(piece.ids.tobytes() + piece.learned.tobytes())
        return found.hexdigest()


def load_data(
    recipe: TuneRecipe, tokenizer: Tokenizer, on_rows: Callable[[str, int, int], None] | None = None
) -> Dataset:
    """Read and encode everything; rows that cannot be learned from are in `problems`, and nowhere else.

    on_rows  called with what is at work, rows done and rows in all

    Raises CheckpointError where a file cannot be read; ConfigError where nothing can be learned.
    """
    plan = recipe.data
    train, problems = _read(recipe.files(plan.train))
    held, held_problems = _read(recipe.files(plan.validation))
    if plan.validation_share:
        held = [row for row in train if _fraction(row) < plan.validation_share]
        train = [row for row in train if _fraction(row) >= plan.validation_share]
    wants_pairs = recipe.preference is not None
    splits = [
        _encode(rows, found, tokenizer, plan.max_tokens, wants_pairs, name, on_rows)
        for name, rows, found in (("train", train, problems), ("validation", held, held_problems))
    ]
    if not splits[0].examples:
        bad = "".join(f"; the first: {problem.where}: {problem.what}" for problem in splits[0].problems[:1])
        raise ConfigError(f"[data] train: expected rows to learn from, found none in {', '.join(plan.train)}{bad}")
    return Dataset(*splits)


def _read(paths: Sequence[Path]) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in paths:
        found, bad = read_file(path)
        rows += found
        problems += bad
    return rows, problems


def _fraction(row: Row) -> float:
    """Where a row's text falls between 0 and 1: equal rows fall together, so that none is in both parts."""
    content = repr([getattr(row, name) for name in row.__dataclass_fields__ if name != "where"])
    return int.from_bytes(hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _encode(
    rows: Sequence[Row],
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    max_tokens: int,
    wants_pairs: bool,
    name: str,
    on_rows: Callable[[str, int, int], None] | None,
) -> Split:
    kept: list[Row] = []
    examples: list[Example] = []
    lengths: list[int] = []
    found = list(problems)
    for number, row in enumerate(rows, 1):
        if on_rows is not None and (number % 100 == 0 or number == len(rows)):
            on_rows(name, number, len(rows))
        if isinstance(row, Pair) != wants_pairs:
            expected = "a preference (there is a [preference] table)" if wants_pairs else "no preference"
            found.append(Problem(row.where, f"expected {expected}, found another shape"))
            continue
        try:
            example = encode_row(tokenizer, row)
        except TokenizerError as error:
            found.append(Problem(row.where, str(error)))
            continue
        n = example.n_longest
        if n > max_tokens and (example := example.cut(max_tokens)).is_empty:
            found.append(Problem(row.where, f"expected an answer within max_tokens {max_tokens}, it begins later"))
            continue
        kept.append(row)
        examples.append(example)
        lengths.append(n)
    return Split(tuple(kept), tuple(examples), tuple(found), tuple(lengths))
