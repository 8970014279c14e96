"""Tokenizer files for tests: the genuine SentencePiece model, and a tokenizer.json made from it."""

import functools
import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from octuor.tokenizer import Tokenizer, find_mistral_common_tokenizer, open_tokenizer


@functools.cache
def mixtral_tokenizer() -> Tokenizer:
    """Mixtral-8x7B's own tokenizer."""
    return open_tokenizer(find_mistral_common_tokenizer())


@functools.cache
def tokenizer_json(model_file: Path) -> bytes:
    """A SentencePiece model in the form that the Hugging Face conversion gives it.

    Merges follow from the scores: every way of making a piece from two pieces, best score first.
    """
    model = SentencePieceProcessor(model_file=str(model_file))
    ids = list(range(model.get_piece_size()))
    pieces = model.id_to_piece(ids)
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    merges = []
    for token_id, piece in enumerate(pieces):
        if model.is_control(token_id) or model.is_byte(token_id) or model.is_unknown(token_id):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((-model.get_score(token_id), vocab[left], vocab[right], [left, right]))
    merges.sort(key=lambda merge: merge[:3])
    special = [token_id for token_id in ids if model.is_control(token_id) or model.is_unknown(token_id)]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": token_id,
                    "content": pieces[token_id],
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for token_id in special
            ],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            },
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            },
            "decoder": None,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": "<unk>",
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": vocab,
                "merges": [merge[3] for merge in merges],
            },
        }
    ).encode()
