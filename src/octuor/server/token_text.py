"""Tokens as log-probabilities show them: a label, the bytes, and where in the text they begin."""

from __future__ import annotations

import math

from octuor.engine.request import TokenInfo
from octuor.tokenizer import Tokenizer

LEAST = -9999.0  # for a token that cannot come: JSON has no infinity


def label_of(tokenizer: Tokenizer, token_id: int, piece: bytes) -> str:
    """What a token is called: the text of its piece, or the name of a control token.

    piece  its bytes, without the blank that the text does not have
    """
    if tokenizer.is_control(token_id):
        return {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}.get(token_id, f"<{token_id}>")
    return text_of(piece)


def text_of(piece: bytes) -> str:
    """A piece's text; a part of a character is written as OpenAI does, "bytes:\\xf0"."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def finite(logprob: float | None) -> float:
    """A log-probability that JSON can say."""
    return logprob if logprob is not None and math.isfinite(logprob) else LEAST


def rank_in_top(token: TokenInfo) -> int | None:
    """1 for the likeliest; None where it is not among those asked for."""
    return next((rank for rank, (token_id, _) in enumerate(token.top, start=1) if token_id == token.id), None)
