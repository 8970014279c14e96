"""A tokenizer read from tokenizer.json, the form Hugging Face checkpoints carry.

Only the kind that Mixtral's conversion has is taken: SentencePiece BPE with byte fallback. What the file says
about adding BOS, about truncation and about control text inside a message is left out on purpose.
"""

import json
import re
from pathlib import Path
from typing import Any

from octuor.errors import TokenizerError
from octuor.tokenizer.base import BLANK, PieceTable, byte_of_piece, check_text

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class HuggingFaceTokenizer(PieceTable):
    """A `Tokenizer` over a tokenizer.json.

    source      path of the file, or its bytes
    bos_token   name of the control token that begins a prompt; eos_token ends an assistant's message

    Raises TokenizerError if the file cannot be read, is of another kind, or lacks one of the two names.
    """

    def __init__(self, source: Path | str | bytes, bos_token: str = "<s>", eos_token: str = "</s>") -> None:
        where = "<bytes>" if isinstance(source, bytes) else str(source)
        description = _read_description(source, where)
        added = description.get("added_tokens") or []
        vocab: dict[str, int] = description["model"]["vocab"]

        special = {str(token["content"]): int(token["id"]) for token in added if token.get("special")}
        unk_token = description["model"].get("unk_token")
        if unk_token in vocab:
            special.setdefault(unk_token, vocab[unk_token])
        plain = {str(token["content"]): int(token["id"]) for token in added if not token.get("special")}
        for name in (bos_token, eos_token):
            if name not in special:
                raise TokenizerError(
                    f"{where}: expected the control token {name!r}, file has {sorted(special)[:8]}; "
                    "name the tokens that begin and end a text with bos_token and eos_token"
                )
        super().__init__(_pieces(vocab, special, plain), special, special[bos_token], special[eos_token])
        self._encoder = _encoder(description, where)

    def encode(self, text: str) -> list[int]:
        check_text(text)
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids


def _read_description(source: Path | str | bytes, where: str) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads(source if isinstance(source, bytes) else Path(source).read_bytes())
    except OSError as error:
        raise TokenizerError(
            f"{where}: expected a tokenizer.json, cannot read it ({error.strerror}); check the path"
        ) from error
    except ValueError as error:
        raise TokenizerError(
            f"{where}: expected JSON, found text that is not ({error}); fetch the file again"
        ) from error
    model = description.get("model") if isinstance(description, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise TokenizerError(
            f"{where}: expected a tokenizer.json with model.vocab, found none; is it another JSON file?"
        )
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise TokenizerError(
            f"{where}: expected a BPE model with byte_fallback, found type {model.get('type')!r} "
            f"with byte_fallback {model.get('byte_fallback')!r}; use the checkpoint's tokenizer.model"
        )
    return description


def _encoder(description: dict[str, Any], where: str) -> Any:
    """The file's encoder without its control tokens: with them, "</s>" in a message would become EOS."""
    from tokenizers import Tokenizer

    plain_only = dict(description)
    plain_only["added_tokens"] = [t for t in description.get("added_tokens") or [] if not t.get("special")]
    for name in ("post_processor", "truncation", "padding"):
        plain_only[name] = None
    try:
        return Tokenizer.from_str(json.dumps(plain_only))
    except Exception as error:  # the library raises the base class itself
        raise TokenizerError(f"{where}: expected a tokenizer.json, the library refuses it ({error})") from error


def _pieces(vocab: dict[str, int], special: dict[str, int], plain: dict[str, int]) -> list[bytes]:
    n_words = 1 + max(*vocab.values(), *special.values(), *plain.values())
    pieces = [b""] * n_words  # ids that the file skips add nothing
    for name, token_id in vocab.items():
        is_byte = _BYTE_PIECE.fullmatch(name) is not None
        pieces[token_id] = byte_of_piece(name) if is_byte else name.replace(BLANK, " ").encode("utf-8")
    for name, token_id in plain.items():
        pieces[token_id] = name.encode("utf-8")
    for token_id in special.values():
        pieces[token_id] = b""
    return pieces
