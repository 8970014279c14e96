"""Which file of a folder is read, and as what."""

from pathlib import Path

import pytest

from octuor.errors import TokenizerError
from octuor.tokenizer import find_mistral_common_tokenizer, open_tokenizer
from octuor.tokenizer.hf import HuggingFaceTokenizer
from octuor.tokenizer.registry import FILES
from octuor.tokenizer.spm import SentencePieceTokenizer
from tokenizer_file import tokenizer_json

MODEL = find_mistral_common_tokenizer()
DATA = {SentencePieceTokenizer: MODEL.read_bytes(), HuggingFaceTokenizer: tokenizer_json(MODEL)}


@pytest.mark.parametrize("name", FILES)
def test_each_name_is_found_alone(tmp_path: Path, name: str) -> None:
    reader = HuggingFaceTokenizer if name == "tokenizer.json" else SentencePieceTokenizer
    (tmp_path / name).write_bytes(DATA[reader])
    assert type(open_tokenizer(tmp_path)) is reader
    assert type(open_tokenizer(tmp_path / name)) is reader
    assert open_tokenizer(str(tmp_path)).encode("Hello") == [22557]


def test_the_model_file_goes_before_the_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(DATA[HuggingFaceTokenizer])
    (tmp_path / "tokenizer.model").write_bytes(DATA[SentencePieceTokenizer])
    assert type(open_tokenizer(tmp_path)) is SentencePieceTokenizer


def test_bytes_are_told_apart_by_their_first_character() -> None:
    for reader, data in DATA.items():
        assert type(open_tokenizer(data)) is reader


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"expected one of tokenizer\.model, .*tokenizer\.json, found none"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_path_that_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenizerError, match="No such file"):
        open_tokenizer(tmp_path / name)
