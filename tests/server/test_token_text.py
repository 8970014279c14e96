"""Tokens as log-probabilities show them."""

from __future__ import annotations

import pytest

from octuor.engine.request import TokenInfo
from octuor.server.token_text import LEAST, finite, label_of, rank_in_top, text_of
from tokenizer_file import mixtral_tokenizer


def test_labels() -> None:
    tokenizer = mixtral_tokenizer()
    labels = [label_of(tokenizer, token_id, tokenizer.piece_bytes(token_id)) for token_id in (0, 1, 2, 15359, 0xF3)]
    assert labels == ["<0>", "<s>", "</s>", " Hi", "bytes:\\xf0"]
    assert text_of("é".encode()) == "é"


@pytest.mark.parametrize(("logprob", "shown"), [(-1.5, -1.5), (float("-inf"), LEAST), (None, LEAST)])
def test_log_probabilities_are_finite(logprob: float | None, shown: float) -> None:
    assert finite(logprob) == shown


def test_ranks() -> None:
    assert rank_in_top(TokenInfo(5, -1.0, ((7, -0.5), (5, -1.0)))) == 2
    assert rank_in_top(TokenInfo(5, -1.0)) is None
