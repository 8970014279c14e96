"""Answers drawn under a grammar without a model, or with one, and what must be true of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime

import jsonschema
import numpy as np
from jsonschema.validators import validator_for
from numpy.typing import NDArray

from octuor.grammar import CompiledGrammar
from octuor.tokenizer import Tokenizer

# Which of the allowed ids is next: mask [V] bool, how many there are already.
Choose = Callable[[NDArray[np.bool_], int], int]

_ENDING = (b'"', b"}", b"]", b"null", b"true", b"1", b"0", b":", b",", b"{", b"[", b"-")


class EndlessError(AssertionError):
    """An answer that did not end."""


def draw(grammar: CompiledGrammar, tokenizer: Tokenizer, choose: Choose, n_most: int = 4000) -> str:
    """The text of one answer that ends by EOS, without the first blank as chat text has it."""
    matcher = grammar.matcher()
    data = b""
    for n_drawn in range(n_most):
        mask = matcher.mask()
        token_id = choose(mask, n_drawn)
        assert mask[token_id]
        if token_id == tokenizer.eos_id:
            return data.removeprefix(b" ").decode("utf-8")
        matcher.advance(token_id)
        data += tokenizer.piece_bytes(token_id)
    raise EndlessError(f"no end after {n_most} tokens: {data[:200]!r}")


def at_random(tokenizer: Tokenizer, seed: int, n_free: int = 30) -> Choose:
    """Any allowed id with the same probability; after n_free of them, ids that lead to the end where there are some."""
    rng = np.random.default_rng(seed)
    by_piece = {tokenizer.piece_bytes(token_id): token_id for token_id in range(tokenizer.n_words)}
    ending = [tokenizer.eos_id, *(by_piece[piece] for piece in _ENDING)]

    def choose(mask: NDArray[np.bool_], n_drawn: int) -> int:
        # sometimes early too, or most answers would be one long string
        if n_drawn >= n_free or rng.random() < 0.2:
            good = [token_id for token_id in ending if mask[token_id]]
            if good and rng.random() < 0.95:
                return good[0] if n_drawn >= n_free else int(rng.choice(good))
        return int(rng.choice(np.flatnonzero(mask)))

    return choose


def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(f"2024-02-29T{value}").tzinfo is not None


FORMATS = jsonschema.FormatChecker(formats=("date", "ipv4", "ipv6", "uuid", "email"))
FORMATS.checkers = {**FORMATS.checkers, "date-time": (_is_date_time, ValueError), "time": (_is_time, ValueError)}


def check(text: str, schema: Mapping[str, object] | bool) -> object:
    """The value of an answer, which must be JSON valid under the schema as it was sent."""
    value = json.loads(text, parse_float=_finite)
    validator_for(schema)(schema, format_checker=FORMATS).validate(value)
    return value


def _finite(text: str) -> float:
    """A number of JSON may be larger than a float64: validators cannot do with infinity."""
    return min(max(float(text), -1e300), 1e300)
