"""Which tokenizer file a checkpoint has, and which class reads it: one list, in order of preference."""

from collections.abc import Callable
from pathlib import Path

from octuor.errors import TokenizerError
from octuor.tokenizer.base import Tokenizer
from octuor.tokenizer.hf import HuggingFaceTokenizer
from octuor.tokenizer.spm import SentencePieceTokenizer

# tokenizer.model first: it is the file the model was trained with, tokenizer.json is made from it
FILES: tuple[tuple[str, Callable[[Path], Tokenizer]], ...] = (
    ("tokenizer.model", SentencePieceTokenizer),
    ("tokenizer.model.v1", SentencePieceTokenizer),
    ("tokenizer.model.v2", SentencePieceTokenizer),
    ("tokenizer.model.v3", SentencePieceTokenizer),
    ("tokenizer.json", HuggingFaceTokenizer),
)


def open_tokenizer(source: Path | str | bytes) -> Tokenizer:
    """The tokenizer in a checkpoint's folder, in one file, or in a file's bytes.

    Raises TokenizerError if there is none, or if the file cannot be read as its name or first byte says.
    """
    if isinstance(source, bytes):
        return HuggingFaceTokenizer(source) if source.lstrip()[:1] == b"{" else SentencePieceTokenizer(source)
    path = Path(source)
    if path.is_dir():
        for name, reader in FILES:
            if (path / name).is_file():
                return reader(path / name)
        raise TokenizerError(
            f"{path}: expected one of {', '.join(name for name, _ in FILES)}, found none; "
            "copy the model's tokenizer file there"
        )
    return HuggingFaceTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)
