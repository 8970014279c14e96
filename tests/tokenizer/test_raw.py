"""Raw prompts: the ids of a written conversation are those of the chat format, and every character is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceEncoder

from octuor.errors import RequestError, TokenizerError
from octuor.tokenizer import Message, encode_chat, find_mistral_common_tokenizer, open_tokenizer
from octuor.tokenizer.raw import RawDetokenizer, Span, decode_raw, encode_raw, locate_raw
from tokenizer_file import mixtral_tokenizer, tokenizer_json

TOKENIZER = mixtral_tokenizer()
INST, END = [733, 16289, 28793], [733, 28748, 16289, 28793]
# what people write and what breaks splitters; U+2581 is left out, it cannot be told from a blank
texts = st.lists(
    st.sampled_from(["<s>", "</s>", "<unk>", "[INST]", "[/INST]", " ", "  ", "\n", "Hi", "é🦑", "<", "s>", "\x00"])
).map("".join)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str) -> Message:
    return Message("assistant", content)


def test_one_turn_has_the_trained_ids() -> None:
    expected = [1, *INST, 22557, *END]
    assert encode_raw(TOKENIZER, "<s>[INST] Hello [/INST]").ids == expected
    assert encode_raw(TOKENIZER, "[INST] Hello [/INST]").ids == expected
    assert encode_raw(TOKENIZER, "<s> [INST] Hello [/INST]").ids == expected


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Hello [/INST] Hi there!</s>[INST] How are you? [/INST]",
        "<s>[INST] Hello [/INST] Hi there!</s> [INST] How are you? [/INST]",
        "<s> [INST] Hello [/INST] Hi there!</s> [INST] How are you? [/INST]",
        "[INST] Hello [/INST] Hi there!</s> [INST] How are you? [/INST]",
    ],
)
def test_turns_have_the_ids_of_the_chat_format(text: str) -> None:
    messages = [user("Hello"), assistant("Hi there!"), user("How are you?")]
    prompt = encode_raw(TOKENIZER, text)
    assert prompt.ids == encode_chat(TOKENIZER, messages)
    assert prompt.spoken == (range(9, 13),)  # Hi there ! </s>


@given(
    contents=st.lists(st.text("ab é\n🦑", min_size=1, max_size=6), min_size=1, max_size=5).filter(lambda c: len(c) % 2)
)
def test_any_conversation_has_the_ids_of_the_chat_format(contents: list[str]) -> None:
    messages = [assistant(text) if index % 2 else user(text) for index, text in enumerate(contents)]
    text = "<s>" + "".join(
        f" {message.content}</s>" if message.role == "assistant" else f"[INST] {message.content} [/INST]"
        for message in messages
    )
    prompt = encode_raw(TOKENIZER, text)
    assert prompt.ids == encode_chat(TOKENIZER, messages)
    said = [[*TOKENIZER.encode(message.content), 2] for message in messages if message.role == "assistant"]
    assert [prompt.ids[part.start : part.stop] for part in prompt.spoken] == said


def test_what_the_model_did_not_say_is_not_spoken() -> None:
    assert encode_raw(TOKENIZER, "<s>[INST] A [/INST] B").spoken == ()  # an answer's beginning, put into its mouth
    assert encode_raw(TOKENIZER, "A</s>B").spoken == ()
    assert encode_raw(TOKENIZER, "[INST] A [/INST]B</s>").spoken == ()  # "B" without its blank is no answer


def test_blanks_beyond_the_first_are_kept() -> None:
    assert encode_raw(TOKENIZER, "<s>  Hello").ids == [1, *TOKENIZER.encode(" Hello")]
    assert encode_raw(TOKENIZER, " Hello").ids == [1, *TOKENIZER.encode(" Hello")]  # no control token, no blank of ours
    assert encode_raw(TOKENIZER, "<s>[INST] A [/INST] B </s>").ids[-3:] == [365, 28705, 2]


def test_a_second_bos_is_as_it_was_written() -> None:
    assert encode_raw(TOKENIZER, "<s><s>Hello").ids == [1, 1, 22557]
    assert encode_raw(TOKENIZER, "Hello<s>").ids == [1, 22557, 1]
    assert encode_raw(TOKENIZER, "").ids == [1]
    assert encode_raw(TOKENIZER, "<s>").ids == [1]


def test_the_unknown_token_stays_text() -> None:
    assert encode_raw(TOKENIZER, "<unk>").ids == [1, *TOKENIZER.encode("<unk>")]


@pytest.mark.parametrize(
    ("text", "is_same"),
    [
        ("<s>[INST] Hello [/INST]", True),
        ("<s>[INST] Hello [/INST] Hi there!</s>[INST] How are you? [/INST] Fine.</s>", True),
        ("<s>A\nB </s>é 🦑", True),
        ("<s>[INST] Hello [/INST] Hi there!</s> [INST] How are you? [/INST]", False),  # one more blank than trained
    ],
)
def test_beside_the_tokenizers_library(text: str, is_same: bool) -> None:
    """It knows control tokens in texts too, and encodes what follows one as written after a blank of its own."""
    library = HuggingFaceEncoder.from_str(tokenizer_json(find_mistral_common_tokenizer()).decode())
    theirs = library.encode(text, add_special_tokens=False).ids
    ours = encode_raw(TOKENIZER, text).ids
    assert (ours == theirs) == is_same
    if not is_same:
        assert ours == [
            token_id for place, token_id in enumerate(theirs) if (place and theirs[place - 1]) != 2 or token_id != 28705
        ]


def test_files_with_control_tokens_for_the_marks_use_them() -> None:
    tokenizer = open_tokenizer(find_mistral_common_tokenizer("v3"))
    prompt = encode_raw(tokenizer, "<s>[INST] Hello[/INST] Hi there!</s>[INST] Bye[/INST]")
    assert prompt.ids == encode_chat(tokenizer, [user("Hello"), assistant("Hi there!"), user("Bye")])
    assert [prompt.ids[part.start : part.stop] for part in prompt.spoken] == [[*tokenizer.encode("Hi there!"), 2]]


def test_every_id_is_located() -> None:
    text = "<s>[INST] é🦑 [/INST]"
    found = [(span.id, text[span.start : span.stop]) for span in locate_raw(TOKENIZER, text)]
    assert found[:7] == [(1, "<s>"), (733, "["), (16289, "INST"), (28793, "]"), (1233, " é"), (243, "🦑"), (162, "🦑")]
    assert locate_raw(TOKENIZER, "Hello") == [Span(1, 0, 0), Span(22557, 0, 5)]


@given(text=texts)
def test_spans_cover_the_text_in_order(text: str) -> None:
    spans = locate_raw(TOKENIZER, text)
    assert [span.id for span in spans] == encode_raw(TOKENIZER, text).ids
    covered = 0
    for span in spans:
        assert covered - 1 <= span.start <= span.stop <= len(text)
        missed = text[covered : span.start]
        assert missed in ("", " "), missed  # a blank before a control token stands for the one that encode adds
        covered = max(covered, span.stop)
    assert text[covered:] in ("", " ")


@given(text=texts)
def test_ids_survive_as_text(text: str) -> None:
    ids = encode_raw(TOKENIZER, text).ids
    assert encode_raw(TOKENIZER, decode_raw(TOKENIZER, ids)).ids == ids


def test_decoding_names_control_tokens() -> None:
    assert decode_raw(TOKENIZER, [1, *INST, 22557, *END, 15359, 2]) == "<s>[INST] Hello [/INST] Hi</s>"
    assert decode_raw(TOKENIZER, [22557, 243, 162]) == "Hello�"
    assert decode_raw(TOKENIZER, []) == ""
    with pytest.raises(RequestError, match="expected 0 to 31999, got 32000"):
        decode_raw(TOKENIZER, [32000])


def test_texts_of_single_ids_read_as_the_whole() -> None:
    texts = RawDetokenizer(TOKENIZER)
    pushed = [texts.push(token_id) for token_id in [1, 15359, 243, 162, 169, 148, 736, 243, 2, 15359]]
    assert pushed == ["<s>", "Hi", "", "", "", "🦑", " there", "", "�</s>", "Hi"]
    assert texts.flush() == ""


def test_lone_surrogates_are_refused() -> None:
    for encode in (encode_raw, locate_raw):
        with pytest.raises(TokenizerError, match="lone surrogate"):
            encode(TOKENIZER, "<s>\ud800")
