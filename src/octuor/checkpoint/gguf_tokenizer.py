"""The SentencePiece model that a GGUF file carries in pieces, put together again as the bytes of a tokenizer.model.

llama.cpp keeps pieces, scores and types (whose numbers are SentencePiece's own) and drops the rest, which is the same
for all models with its tokenizer "llama": byte-pair encoding without normalization. The message is written by hand:
it is small, and the protobuf library would be a cost to everybody.

Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

import numpy as np

from octuor.checkpoint.gguf_file import GgufFile
from octuor.errors import CheckpointError
from octuor.quant.base import Array
from octuor.tokenizer.base import BLANK

_AT = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_LAST = -1e9  # the score that Mistral gives to pieces of blanks
_BPE = 2  # TrainerSpec.ModelType
_VARINT, _BYTES = 0, 2  # kinds of fields


def sentencepiece_model(file: GgufFile, vocab_size: int) -> bytes | None:
    """A ModelProto; None where the file has no tokenizer or one of another kind, which leaves token ids.

    Raises CheckpointError if the lists of pieces, scores and types do not fit each other or the model.
    """
    pieces = file.strings(_AT + "tokens")
    if file.text(_AT + "model") != "llama" or pieces is None:
        return None
    if not 0 < len(pieces) <= vocab_size:
        raise CheckpointError(
            f"{file.path}: expected 1 to {vocab_size} tokens, one for each row of the embedding, found {len(pieces)}; "
            "download it again"
        )
    try:
        b"\n".join(pieces).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file.path}: expected tokens in UTF-8, found {error.reason}; download it again"
        ) from error
    unknown, bos, eos = (
        _special(file, name, default, len(pieces)) for name, default in (("unknown", 0), ("bos", 1), ("eos", 2))
    )
    types = _types(file, len(pieces))
    types[[bos, eos]] = _CONTROL
    types[types == _UNKNOWN] = _CONTROL
    types[unknown] = _UNKNOWN  # it may stand there as a control token, and there has to be one
    scores = _scores(file, types, pieces)
    model = bytearray()
    for piece, score, kind in zip(pieces, scores.tolist(), types.tolist(), strict=True):
        text = piece.replace(b" ", BLANK.encode()) if kind == _USER_DEFINED else piece
        message = _field(1, text) + b"\x15" + pack("<f", score) + _field(3, kind)
        model += _field(1, message)
    trainer = (
        _field(3, _BPE)
        + _field(4, len(pieces))
        + _field(35, int((types == _BYTE).any()))
        + b"".join(_field(40 + i, token_id) for i, token_id in enumerate((unknown, bos, eos)))
        + b"".join(_field(45 + i, pieces[token_id]) for i, token_id in enumerate((unknown, bos, eos)))
    )
    normalizer = (
        _field(1, b"identity")
        + _field(3, int(_flag(file, "add_space_prefix", default=True)))
        + _field(4, int(_flag(file, "remove_extra_whitespaces", default=False)))
        + _field(5, 1)  # blanks are written as BLANK
    )
    return bytes(model + _field(2, trainer) + _field(3, normalizer))


def _types(file: GgufFile, n: int) -> Array:
    types = _column(file, "token_type", n, np.full(n, _NORMAL))
    if types.dtype.kind not in "iu" or types.min() < _NORMAL or types.max() > _BYTE:
        raise CheckpointError(
            f"{file.path}: expected whole numbers from {_NORMAL} to {_BYTE} as {_AT}token_type, found others; "
            "download it again"
        )
    return types.astype(np.int32)


def _scores(file: GgufFile, types: Array, pieces: Sequence[bytes]) -> Array:
    """Scores, which say what is merged first.

    Files made without a tokenizer.model have one score for all. Mistral's order is that of ids, blanks alone last.
    """
    by_id = -np.arange(len(types), dtype=np.float32)
    scores = _column(file, "scores", len(types), by_id).astype(np.float32)
    if not np.isfinite(scores).all():
        raise CheckpointError(f"{file.path}: expected finite {_AT}scores, found NaN or infinity; download it again")
    normal = scores[types == _NORMAL]
    if not normal.size or (normal != normal[0]).any():
        return scores
    are_blanks = [not piece.replace(BLANK.encode(), b"") for piece in pieces]
    return np.where(are_blanks, np.float32(_LAST), by_id)


def _column(file: GgufFile, name: str, n: int, default: Array) -> Array:
    column = file.numbers(_AT + name)
    if column is None:
        return default
    if column.shape != (n,):
        raise CheckpointError(
            f"{file.path}: expected {n} numbers as {_AT}{name}, one for each token, found {len(column)}; "
            "download it again"
        )
    return column


def _special(file: GgufFile, name: str, default: int, n: int) -> int:
    token_id = file.integer(f"{_AT}{name}_token_id")
    token_id = default if token_id is None else token_id
    if not 0 <= token_id < n:
        raise CheckpointError(
            f"{file.path}: expected {_AT}{name}_token_id among {n} tokens, found {token_id}; download it again"
        )
    return token_id


def _flag(file: GgufFile, name: str, *, default: bool) -> bool:
    value = file.flag(_AT + name)
    return default if value is None else value


def _field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; value is not negative."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
