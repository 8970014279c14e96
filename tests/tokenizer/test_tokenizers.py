"""What both readers promise: the same ids, exact bytes, no control ids from text."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.errors import RequestError, TokenizerError
from octuor.tokenizer import Tokenizer, find_mistral_common_tokenizer
from octuor.tokenizer.hf import HuggingFaceTokenizer
from octuor.tokenizer.spm import SentencePieceTokenizer
from tokenizer_file import mixtral_tokenizer, tokenizer_json

READERS: dict[str, Callable[[], Tokenizer]] = {
    "spm": mixtral_tokenizer,
    "hf": lambda: HuggingFaceTokenizer(tokenizer_json(find_mistral_common_tokenizer())),
}
# from Mistral's own encoder; the first piece of a text carries the blank that SentencePiece adds
GOLDEN = {
    "": [],
    "Hello": [22557],
    "  Hello": [259, 22557],
    "\nHello": [28705, 13, 16230],
    "trail  ": [8005, 259],
    "é 😀 日本": [1233, 28705, 30575, 28705, 29142, 29119],
    "</s>": [1867, 28713, 28767],
    "<s>": [523, 28713, 28767],
    "<unk>": [523, 2060, 28767],
    "<0x41>": [523, 28734, 28744, 28781, 28740, 28767],
    "[INST]": [733, 16289, 28793],
    "\x00": [28705, 3],
    "a▅": [264, 229, 153, 136],
}
# U+2581 is how SentencePiece writes a blank, so it cannot be told from one
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)
near_control = st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "[INST]", " ", "a", "<", "<0x0A>"])).map("".join)


@pytest.fixture(scope="module", params=READERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return READERS[request.param]()


@pytest.fixture(scope="module")
def pair() -> tuple[Tokenizer, Tokenizer]:
    return READERS["spm"](), READERS["hf"]()


def test_ids_of_mixtral(tokenizer: Tokenizer) -> None:
    assert (tokenizer.n_words, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)
    assert [i for i in range(tokenizer.n_words) if tokenizer.is_control(i)] == [0, 1, 2]
    assert (tokenizer.control_id("</s>"), tokenizer.control_id("[INST]")) == (2, None)


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == GOLDEN[text]
    assert tokenizer.decode(GOLDEN[text]) == text


@pytest.mark.parametrize(
    ("token_id", "data"),
    [(0, b""), (1, b""), (2, b""), (3, b"\x00"), (258, b"\xff"), (259, b"  "), (13, b"\n"), (15359, b" Hi")],
)
def test_bytes_of_a_piece(tokenizer: Tokenizer, token_id: int, data: bytes) -> None:
    assert tokenizer.piece_bytes(token_id) == data


@given(text=st.one_of(texts, near_control))
def test_text_survives_and_makes_no_control_ids(pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    for tokenizer in pair:
        ids = tokenizer.encode(text)
        assert not any(tokenizer.is_control(token_id) for token_id in ids)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, strip_leading_space=False) == (" " + text if text else "")


@given(text=st.one_of(texts, near_control))
def test_both_readers_give_the_same_ids(pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    assert pair[0].encode(text) == pair[1].encode(text)


def test_both_readers_give_the_same_bytes(pair: tuple[Tokenizer, Tokenizer]) -> None:
    for token_id in range(32000):
        assert pair[0].piece_bytes(token_id) == pair[1].piece_bytes(token_id)


def test_decode_passes_over_control_ids_and_marks_broken_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([1, 15359, 2, 0]) == "Hi"
    assert tokenizer.decode([15359, 1, 15359]) == "Hi Hi"
    assert tokenizer.decode([3 + 0xF0, 3 + 0x9F, 15359]) == "\ufffd Hi"  # two bytes of four, then a blank
    assert tokenizer.decode([28705, 15359]) == " Hi"


@pytest.mark.parametrize("token_id", [-1, 32000])
def test_an_id_outside_the_range_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(RequestError, match=f"expected 0 to 31999, got {token_id}"):
        tokenizer.piece_bytes(token_id)
    with pytest.raises(RequestError, match="token id"):
        tokenizer.decode([15359, token_id])


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"'\\ud800' at index 2"):
        tokenizer.encode("ab\ud800c")


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x0a\x0bgarbage"])
def test_bytes_that_are_no_sentencepiece_model(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=f"expected a SentencePiece model, found {len(data)} bytes"):
        SentencePieceTokenizer(data)


def _changed(**model: object) -> bytes:
    description = json.loads(tokenizer_json(find_mistral_common_tokenizer()))
    description["model"].update(model)
    return json.dumps(description).encode()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"{", "expected JSON"),
        (lambda: b"\xff\xfe", "expected JSON"),
        (lambda: b"[1]", r"model\.vocab"),
        (lambda: b'{"model": {"type": "BPE"}}', r"model\.vocab"),
        (lambda: _changed(type="Unigram"), "found type 'Unigram'"),
        (lambda: _changed(byte_fallback=False), "byte_fallback False"),
        (lambda: _changed(merges=[["x", "not in the vocabulary"]]), "the library refuses it"),
    ],
)
def test_bytes_that_are_no_tokenizer_json(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        HuggingFaceTokenizer(make())


def test_the_names_of_the_control_tokens_must_be_in_the_file() -> None:
    data = tokenizer_json(find_mistral_common_tokenizer())
    with pytest.raises(TokenizerError, match=r"expected the control token '<\|im_end\|>'"):
        HuggingFaceTokenizer(data, eos_token="<|im_end|>")


def test_added_words_that_are_not_control_tokens_are_kept() -> None:
    description = json.loads(tokenizer_json(find_mistral_common_tokenizer()))
    word = dict(description["added_tokens"][0], id=32000, content="⟦chord⟧", special=False)
    description["added_tokens"].append(word)
    tokenizer = HuggingFaceTokenizer(json.dumps(description).encode())
    assert tokenizer.n_words == 32001
    assert tokenizer.encode("⟦chord⟧") == [32000]
    assert tokenizer.piece_bytes(32000) == "⟦chord⟧".encode()
    assert not tokenizer.is_control(32000)
