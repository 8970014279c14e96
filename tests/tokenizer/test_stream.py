"""Text in parts is the text of the whole, whatever the ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.errors import RequestError
from octuor.tokenizer import Detokenizer
from tokenizer_file import mixtral_tokenizer

TOKENIZER = mixtral_tokenizer()
BYTE = 3  # the id of byte 0x00

any_id = st.integers(0, TOKENIZER.n_words - 1)
control_or_byte_or_blank = st.one_of(st.integers(0, 258), st.sampled_from([259, 28705, 15359, 28713]))
# bytes of characters that are cut short, run on or are never allowed
utf8_parts = st.sampled_from([0x20, 0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xA0, 0xF0, 0x9F, 0x98, 0xF5, 0xFF])
ids_lists = st.one_of(
    st.lists(any_id, max_size=30),
    st.lists(control_or_byte_or_blank, max_size=30),
    st.lists(st.one_of(utf8_parts.map(lambda byte: BYTE + byte), any_id), max_size=30),
)


def parts_of(ids: list[int], *, strip_leading_space: bool = True) -> list[str]:
    stream = Detokenizer(TOKENIZER, strip_leading_space=strip_leading_space)
    return [*(stream.push(token_id) for token_id in ids), stream.flush()]


@given(ids=ids_lists, strip=st.booleans())
def test_joined_parts_are_the_decoded_text(ids: list[int], strip: bool) -> None:
    assert "".join(parts_of(ids, strip_leading_space=strip)) == TOKENIZER.decode(ids, strip_leading_space=strip)


@given(ids=ids_lists)
def test_decoding_is_the_bytes_as_utf8(ids: list[int]) -> None:
    data = b"".join(TOKENIZER.piece_bytes(token_id) for token_id in ids)
    assert TOKENIZER.decode(ids, strip_leading_space=False) == data.decode("utf-8", "replace")


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\ufffd"), max_size=30))
def test_no_part_of_valid_text_shows_a_broken_character(text: str) -> None:
    parts = parts_of(TOKENIZER.encode(text))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_a_character_of_four_ids_comes_whole() -> None:
    ids = [BYTE + byte for byte in "🦑".encode()]
    assert TOKENIZER.encode("🦑") == [28705, *ids]
    assert parts_of([15359, *ids]) == ["Hi", "", "", "", "🦑", ""]


def test_a_broken_character_is_shown_once_it_is_certain() -> None:
    assert parts_of([BYTE + 0xF0, BYTE + 0x9F]) == ["", "", "\ufffd"]  # only the end makes it certain
    assert parts_of([BYTE + 0xF0, BYTE + 0x9F, 15359]) == ["", "", "\ufffd Hi", ""]
    assert parts_of([BYTE + 0xFF]) == ["\ufffd", ""]  # no character begins so


@pytest.mark.parametrize(
    ("ids", "chat", "continued"),
    [
        ([15359, 736], ["Hi", " there"], [" Hi", " there"]),
        ([1, 15359], ["", "Hi"], ["", " Hi"]),
        ([28705, 15359], ["", " Hi"], [" ", " Hi"]),
        ([259, 15359], [" ", " Hi"], ["  ", " Hi"]),
        ([23809, 15359], ["Hi", " Hi"], ["Hi", " Hi"]),
    ],
)
def test_only_the_first_blank_is_taken(ids: list[int], chat: list[str], continued: list[str]) -> None:
    assert parts_of(ids) == [*chat, ""]
    assert parts_of(ids, strip_leading_space=False) == [*continued, ""]


def test_an_id_outside_the_range_is_refused() -> None:
    with pytest.raises(RequestError, match="got 32000"):
        Detokenizer(TOKENIZER).push(32000)
