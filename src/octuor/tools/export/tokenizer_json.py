"""A SentencePiece model in the form that Hugging Face's tokenizers library reads, with the same ids for every text.

transformers makes this file itself where a folder has tokenizer.model alone, but in version 5 without the blank that
SentencePiece puts before a text, so it is written beside it.
"""

from __future__ import annotations

import json
from typing import Any

from octuor.tokenizer.base import BLANK


def tokenizer_json(data: bytes) -> bytes:
    """The tokenizer.json of a tokenizer.model (its bytes): byte-pair merges in the order of SentencePiece's scores.

    Any two pieces whose join is a piece merge, the best-scored join first; SentencePiece does the same at every step.
    """
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor()
    model.LoadFromSerializedProto(data)
    ids = list(range(model.get_piece_size()))
    pieces: list[str] = model.id_to_piece(ids)
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    special = [n for n in ids if model.is_control(n) or model.is_unknown(n)]
    whole = [n for n in ids if not (model.is_control(n) or model.is_unknown(n) or model.is_byte(n))]
    merges = []
    for token_id in whole:
        piece = pieces[token_id]
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in vocab and right in vocab:
                merges.append((-model.get_score(token_id), vocab[left], vocab[right], (left, right)))
    merges.sort()
    bos = model.id_to_piece(model.bos_id())
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(n, pieces[n]) for n in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": BLANK},
                {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [model.bos_id()], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[model.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [" ".join(merge[3]) for merge in merges],
        },
    }
    return json.dumps(description, ensure_ascii=False).encode()


def _special(token_id: int, content: str) -> dict[str, Any]:
    """An entry of added_tokens that text never becomes part of."""
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
