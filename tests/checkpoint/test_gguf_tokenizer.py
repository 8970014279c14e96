"""Token ids of the tokenizer in a GGUF file beside those of the tokenizer.model that it was made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from checkpoint.gguf_files import TOY, metadata_of, write_file
from octuor.checkpoint.gguf_file import GgufFile
from octuor.checkpoint.gguf_tokenizer import sentencepiece_model
from octuor.errors import CheckpointError
from octuor.tokenizer import Tokenizer, find_mistral_common_tokenizer, open_tokenizer

TEXTS = [
    "", " ", "  ", "\n", "\t\n\r ", "a", " a", "a ", "   leading and trailing   ", "x  y   z    w",
    "Hello, world! How are you today?", "def f(x):\n    return x ** 2  # squared\n", "1234567890 3.14159 1e-5 0xFF",
    "Bonjour, comment ça va ? L'été est là, où êtes-vous ?", "Größe, Äpfel, Straße und Übermut", "¿Qué tal, señor?",
    "Ελληνικά και русский язык", "こんにちは、世界。今日は天気がいい。", "你好，世界！这是一个测试。",
    "안녕하세요 세계", "שלום עולם مرحبا بالعالم",
    "🙂🙃 \U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "e\u0301 vs é; ﬁ ligature; ½ ① Ⅷ ａｂｃ", "\u200b\u00ad\ufeff zero widths \u2028 \u00a0",
    "▁ already ▁▁ there", "<s> </s> <unk> [INST] <0x41>", "\x00\x01\x7f", "\U0010ffff \U0001f9ff", "a" * 29,
    "https://example.com/a?b=c&d=%20#e", "The quick brown fox jumps over the lazy dog. " * 20,
]  # fmt: skip


def metadata_of_tokenizer(data: bytes) -> dict[str, Any]:
    """What llama.cpp's converter writes of a tokenizer.model (conversion/base.py, _create_vocab_sentencepiece)."""
    model = SentencePieceProcessor()
    model.LoadFromSerializedProto(data)
    ids = range(model.vocab_size())
    kinds = ((model.IsUnknown, 2), (model.IsControl, 3), (model.IsUnused, 5), (model.IsByte, 6))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [model.IdToPiece(i).encode() for i in ids],
        "tokenizer.ggml.scores": [model.GetScore(i) for i in ids],
        "tokenizer.ggml.token_type": [next((kind for test, kind in kinds if test(i)), 1) for i in ids],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
    }


@functools.cache
def mixtral(version: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Mistral's own tokenizer, and what a file has of it."""
    path = find_mistral_common_tokenizer(version)
    return open_tokenizer(path), metadata_of_tokenizer(path.read_bytes())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, GgufFile]:
    """A file with each version of the tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")
    nothing = {"x": np.zeros(1, dtype=np.float32)}
    return {
        version: GgufFile(write_file(folder / version, metadata_of(TOY) | mixtral(version)[1], nothing))
        for version in ("v1", "v3")
    }


Rebuild = Callable[..., bytes | None]


@pytest.fixture
def rebuild(files: Mapping[str, GgufFile], monkeypatch: pytest.MonkeyPatch) -> Rebuild:
    """The model in a file, whose metadata may be changed before: rebuild(version, vocab_size=..., scores=...)."""

    def make(version: str = "v1", *, vocab_size: int = 40_000, **changes: Any) -> bytes | None:
        file = files[version]
        for key, value in changes.items():
            is_numbers = isinstance(value, list) and not isinstance(value[0], bytes)
            monkeypatch.setitem(file.metadata, f"tokenizer.ggml.{key}", np.array(value) if is_numbers else value)
        return sentencepiece_model(file, vocab_size)

    return make


def assert_alike(found: bytes | None, expected: Tokenizer) -> None:
    assert found is not None
    ours = open_tokenizer(found)
    assert (ours.n_words, ours.bos_id, ours.eos_id) == (expected.n_words, expected.bos_id, expected.eos_id)
    assert ours.control_ids == expected.control_ids
    for text in TEXTS:
        ids = expected.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == expected.decode(ids), text
    assert [ours.piece_bytes(i) for i in range(ours.n_words)] == [expected.piece_bytes(i) for i in range(ours.n_words)]


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_token_ids_are_those_of_the_model_file(rebuild: Rebuild, version: str) -> None:
    assert_alike(rebuild(version), mixtral(version)[0])


def test_the_unknown_token_may_stand_there_as_a_control_token(rebuild: Rebuild) -> None:
    expected, metadata = mixtral("v1")  # as converted beside a tokenizer_config.json
    types = [3, *metadata["tokenizer.ggml.token_type"][1:]]
    scores = [-1000.0] * 3 + metadata["tokenizer.ggml.scores"][3:]
    assert_alike(rebuild(token_type=types, scores=scores), expected)


def test_without_scores_the_order_of_ids_is_that_of_merges(rebuild: Rebuild) -> None:
    expected, metadata = mixtral("v1")
    scores = [-1000.0] * len(metadata["tokenizer.ggml.scores"])  # as converted without a tokenizer.model
    assert_alike(rebuild(scores=scores), expected)


def test_added_tokens_are_found_whole(rebuild: Rebuild) -> None:
    _, metadata = mixtral("v1")
    found = rebuild(
        tokens=[*metadata["tokenizer.ggml.tokens"], b"< two words >"],
        scores=[*metadata["tokenizer.ggml.scores"], -1000.0],
        token_type=[*metadata["tokenizer.ggml.token_type"], 4],
    )
    assert found is not None
    tokenizer = open_tokenizer(found)
    assert tokenizer.encode("a< two words >b")[1:2] == [32000]
    assert tokenizer.piece_bytes(32000) == b"< two words >"


@pytest.mark.parametrize("adds", [True, False])
def test_the_blank_before_a_text(rebuild: Rebuild, adds: bool) -> None:
    found = rebuild(add_space_prefix=adds)
    assert found is not None
    assert open_tokenizer(found).encode("Hello") == (mixtral("v1")[0].encode("Hello") if adds else [16230])


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_tokenizers_of_other_kinds_leave_token_ids(rebuild: Rebuild, kind: str) -> None:
    assert rebuild(model=kind) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0, 1.0]}, "32000 numbers as tokenizer.ggml.scores, one for each token, found 2"),
        ({"scores": [float("nan")] * 32000}, "finite tokenizer.ggml.scores"),
        ({"token_type": [1, 2]}, "found 2"),
        ({"token_type": [7] * 32000}, "whole numbers from 1 to 6"),
        ({"token_type": [-1] * 32000}, "whole numbers from 1 to 6"),
        ({"token_type": [1.5] * 32000}, "whole numbers from 1 to 6"),
        ({"eos_token_id": 32000}, "tokenizer.ggml.eos_token_id among 32000 tokens, found 32000"),
        ({"tokens": [1, 2, 3]}, "an array of strings as tokenizer.ggml.tokens"),
        ({"tokens": [b"\xff"]}, "tokens in UTF-8"),
        ({"vocab_size": 31_999}, "expected 1 to 31999 tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_that_do_not_fit_are_named(rebuild: Rebuild, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        rebuild(**changes)
