"""Which tokenizer file a checkpoint has, and which class reads it: one list, in order of preference."""

from pathlib import Path

from octuor.errors import TokenizerError
from octuor.tokenizer.base import Tokenizer
from octuor.tokenizer.hf import HuggingFaceTokenizer
from octuor.tokenizer.spm import SentencePieceTokenizer

# tokenizer.model first: it is the file the model was trained with, tokenizer.json is made from it
FILES = ("tokenizer.model", "tokenizer.model.v1", "tokenizer.model.v2", "tokenizer.model.v3", "tokenizer.json")


def find_tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer file in a checkpoint's folder, None where there is none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def tokenizer_kind(path: Path) -> str:
    """What a tokenizer file holds, by its name: "tokenizer.json", else "tokenizer.model" (SentencePiece)."""
    return "tokenizer.json" if path.suffix == ".json" else "tokenizer.model"


def open_tokenizer(source: Path | str | bytes) -> Tokenizer:
    """The tokenizer in a checkpoint's folder, in one file, or in a file's bytes.

    Raises TokenizerError if there is none, or if the file cannot be read as its name or first byte says.
    """
    if isinstance(source, bytes):
        return HuggingFaceTokenizer(source) if source.lstrip()[:1] == b"{" else SentencePieceTokenizer(source)
    path = Path(source)
    if path.is_dir():
        found = find_tokenizer_file(path)
        if found is None:
            raise TokenizerError(
                f"{path}: expected one of {', '.join(FILES)}, found none; copy the model's tokenizer file there"
            )
        path = found
    return HuggingFaceTokenizer(path) if tokenizer_kind(path) == "tokenizer.json" else SentencePieceTokenizer(path)
