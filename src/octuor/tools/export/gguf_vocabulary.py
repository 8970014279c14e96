"""A checkpoint's tokenizer as values of a GGUF file, the way llama.cpp's converter writes it.

Source: llama.cpp, conversion/base.py (_create_vocab_sentencepiece); gguf-py, constants.py (TokenType)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from octuor.checkpoint.base import Checkpoint
from octuor.errors import CheckpointError
from octuor.tokenizer import open_tokenizer
from octuor.tools.export.gguf_file import Value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_UNUSED_SCORE = -10000.0
_NEVER_MERGED = -1e6  # below every merge


def vocabulary(checkpoint: Checkpoint, vocab_size: int) -> dict[str, Value]:
    """Pieces, scores, kinds and control ids; of a checkpoint without a tokenizer, that it has none.

    vocab_size  rows of the embedding; ids that the tokenizer does not have are marked unused

    Raises CheckpointError if the tokenizer has more ids than that.
    """
    data = checkpoint.tokenizer_bytes()
    if data is None:
        return {"tokenizer.ggml.model": "none"}
    tokenizer = open_tokenizer(data)
    if tokenizer.n_words > vocab_size:
        raise CheckpointError(
            f"{checkpoint.source}: expected a tokenizer of at most {vocab_size} ids, found {tokenizer.n_words}; "
            "is it another model's?"
        )
    is_json = checkpoint.tokenizer_kind == "tokenizer.json"
    pieces = _json_pieces(json.loads(data)) if is_json else _sentencepiece_pieces(data)
    pieces |= {n: (f"[PAD{n}]", _UNUSED_SCORE, UNUSED) for n in range(vocab_size) if n not in pieces}
    ordered = [pieces[n] for n in range(vocab_size)]
    values: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [text for text, _, _ in ordered],
        "tokenizer.ggml.scores": [score for _, score, _ in ordered],
        "tokenizer.ggml.token_type": [kind for _, _, kind in ordered],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    }
    unknown = next((n for n, (_, _, kind) in pieces.items() if kind == UNKNOWN), None)
    if unknown is not None:
        values["tokenizer.ggml.unknown_token_id"] = unknown
    return values


Pieces = dict[int, tuple[str, float, int]]  # id -> text, score, kind


def _sentencepiece_pieces(data: bytes) -> Pieces:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor()
    model.LoadFromSerializedProto(data)
    kinds = ((model.is_unknown, UNKNOWN), (model.is_control, CONTROL), (model.is_unused, UNUSED), (model.is_byte, BYTE))

    def kind(token_id: int) -> int:
        return next((number for holds, number in kinds if holds(token_id)), NORMAL)

    return {n: (model.id_to_piece(n), model.get_score(n), kind(n)) for n in range(model.get_piece_size())}


def _json_pieces(description: Mapping[str, Any]) -> Pieces:
    """A tokenizer.json's pieces, scored so that SentencePiece's way, best score first, makes the same merges."""
    model = description["model"]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    pieces: Pieces = {}
    for text, token_id in model["vocab"].items():
        kind = BYTE if len(text) == 6 and text.startswith("<0x") else NORMAL
        pieces[token_id] = (text, -float(ranks[text]) if text in ranks else _NEVER_MERGED, kind)
    for token in description.get("added_tokens") or []:
        is_unknown = token["content"] == model.get("unk_token")
        kind = UNKNOWN if is_unknown else CONTROL if token.get("special") else USER_DEFINED
        pieces[token["id"]] = (token["content"], 0.0 if kind != USER_DEFINED else -1000.0, kind)
    return pieces
