"""What a data set is like, before anything is learned from it: a report for people and one for programs."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from octuor.tune.data import Dataset, Split
from octuor.tune.language import guess_language
from octuor.tune.recipe import TuneRecipe
from octuor.tune.rows import Pair, Problem, Row, Talk

BAR = 40  # characters of the longest bar
SHOWN = 5  # of a list's entries, to people


@dataclass(frozen=True)
class SplitCheck:
    """One part of the data.

    shapes           talks, texts, pairs: rows of each
    tokens, learned  of all sequences as they are learned from, and those that the loss counts
    lengths          tokens of the longest sequence of a row, before it was cut: least, median, 90 %, most
    histogram        (up to so many tokens, rows), in steps of two to one
    truncated        rows that were cut
    duplicates       rows that say the same as an earlier one: (row, earlier row)
    near_duplicates  the same after folding: case, width, punctuation and blanks
    languages        rows by guess_language
    """

    rows: int
    shapes: dict[str, int]
    problems: list[Problem]
    tokens: int
    learned: int
    lengths: tuple[int, int, int, int]
    histogram: list[tuple[int, int]]
    truncated: int
    duplicates: list[tuple[str, str]]
    near_duplicates: list[tuple[str, str]]
    languages: dict[str, int]


@dataclass(frozen=True)
class Check:
    """All of the data.

    leaks           rows of validation that training has too, after folding: (validation row, training row)
    shared_prompts  the same for what is answered alone, with other answers
    """

    train: SplitCheck
    validation: SplitCheck | None
    leaks: list[tuple[str, str]]
    shared_prompts: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def check(data: Dataset, recipe: TuneRecipe) -> Check:
    """Look at every row once."""
    max_tokens = recipe.data.max_tokens
    validation = _check_split(data.validation, max_tokens) if data.validation.rows else None
    seen = _first_places(data.train.rows, _folded)
    prompts = _first_places(data.train.rows, _folded_prompt)
    leaks, shared = [], []
    for row in data.validation.rows:
        if (place := seen.get(_folded(row))) is not None:
            leaks.append((row.where, place))
        elif (prompt := _folded_prompt(row)) and prompt in prompts:
            shared.append((row.where, prompts[prompt]))
    return Check(_check_split(data.train, max_tokens), validation, leaks, shared)


def fold(text: str) -> str:
    """What stays of a text when case, width, punctuation and blanks do not count."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _check_split(split: Split, max_tokens: int) -> SplitCheck:
    lengths = np.array(split.lengths_before or (0,))
    pieces = [piece for example in split.examples for piece in example.pieces]
    exact = _repeats(split.rows, _exact)
    again = {row for row, _ in exact}
    return SplitCheck(
        rows=len(split.rows),
        shapes=dict(Counter(type(row).__name__.lower() + "s" for row in split.rows)),
        problems=list(split.problems),
        tokens=sum(len(piece.ids) for piece in pieces),
        learned=sum(int(piece.learned[1:].sum()) for piece in pieces),
        lengths=(int(lengths.min()), int(np.median(lengths)), int(np.quantile(lengths, 0.9)), int(lengths.max())),
        histogram=_histogram(split.lengths_before),
        truncated=int((lengths > max_tokens).sum()),
        duplicates=exact,
        near_duplicates=[both for both in _repeats(split.rows, _folded) if both[0] not in again],
        languages=dict(Counter(guess_language(" ".join(_texts(row))) for row in split.rows).most_common()),
    )


def _histogram(lengths: Sequence[int]) -> list[tuple[int, int]]:
    bins = Counter(max(n - 1, 1).bit_length() for n in lengths)
    if not bins:
        return []
    return [(1 << bits, bins[bits]) for bits in range(min(bins), max(bins) + 1)]


def _texts(row: Row) -> list[str]:
    """All that a row says, in order."""
    match row:
        case Talk():
            return [message.content for message in row.messages]
        case Pair():
            return [*(message.content for message in row.prompt), row.chosen, row.rejected]
    return [row.text]


def _exact(row: Row) -> tuple[str, ...]:
    match row:
        case Talk():
            return tuple(part for message in row.messages for part in (message.role, message.content))
    return tuple(_texts(row))


def _folded(row: Row) -> tuple[str, ...]:
    return tuple(fold(part) for part in _exact(row))


def _folded_prompt(row: Row) -> tuple[str, ...]:
    match row:
        case Talk():
            return tuple(fold(message.content) for message in row.messages[:-1])
        case Pair():
            return tuple(fold(message.content) for message in row.prompt)
    return ()


def _first_places(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    found: dict[tuple[str, ...], str] = {}
    for row in rows:
        found.setdefault(key(row), row.where)
    return found


def _repeats(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> list[tuple[str, str]]:
    places: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        places[key(row)].append(row.where)
    return [(where, first) for first, *others in places.values() for where in others]


# ---- for people ----------------------------------------------------------------------------------


def describe(found: Check) -> str:
    """The report as text, some lines a part."""
    lines = _describe_split("train", found.train)
    if found.validation is not None:
        lines += _describe_split("validation", found.validation)
        lines += _list("leaks: validation rows that training has too", found.leaks)
        lines += _list("validation rows whose prompt training has too", found.shared_prompts)
    return "\n".join(lines)


def _describe_split(name: str, part: SplitCheck) -> list[str]:
    shapes = ", ".join(f"{n:,} {shape}" for shape, n in part.shapes.items()) or "no rows"
    least, median, high, most = part.lengths
    share = part.learned / part.tokens if part.tokens else 0
    widest = max((n for _, n in part.histogram), default=1)
    bars = [f"  {'≤' + format(up, ','):>8}  {n:>8,}  {'█' * -(-BAR * n // widest)}" for up, n in part.histogram]
    languages = ", ".join(f"{language} {n / part.rows:.1%}" for language, n in part.languages.items())
    problems = [f"{problem.where}: {problem.what}" for problem in part.problems]
    return [
        f"{name}: {shapes}; {part.tokens:,} tokens, {share:.0%} of them learned",
        f"  tokens of a row: {least} to {most}, median {median}, 90 % up to {high}; {part.truncated:,} rows cut",
        *bars,
        f"  languages: {languages}",
        *_list("rows that cannot be learned from", problems),
        *_list("rows equal to an earlier one", part.duplicates),
        *_list("rows equal to an earlier one after folding", part.near_duplicates),
    ]


def _list(title: str, entries: Sequence[str | tuple[str, str]]) -> list[str]:
    if not entries:
        return [f"  {title}: none"]
    shown = [f"    {entry if isinstance(entry, str) else ' = '.join(entry)}" for entry in entries[:SHOWN]]
    rest = [f"    and {len(entries) - SHOWN:,} more"] if len(entries) > SHOWN else []
    return [f"  {title}: {len(entries):,}", *shown, *rest]
