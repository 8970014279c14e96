"""The Instruct format against ids recorded from Mistral's own encoder (mistral-common 1.13.1, v1)."""

import pytest

from octuor.errors import TokenizerError
from octuor.tokenizer import (
    Message,
    Turn,
    as_message,
    encode_chat,
    encode_prompt,
    encode_turns,
    find_mistral_common_tokenizer,
    open_tokenizer,
)
from tokenizer_file import mixtral_tokenizer

TOKENIZER = mixtral_tokenizer()
INST, END = [733, 16289, 28793], [733, 28748, 16289, 28793]


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str, *, prefix: bool = False) -> Message:
    return Message("assistant", content, prefix)


def system(content: str) -> Message:
    return Message("system", content)


GOLDEN = {
    "single": ([user("Hello")], [1, *INST, 22557, *END]),
    "system": (
        [system("You are helpful."), user("Hello")],
        [1, *INST, 995, 460, 10865, 28723, 13, 13, 16230, *END],
    ),
    "turns": (
        [user("Hello"), assistant("Hi there!"), user("How are you?")],
        [1, *INST, 22557, *END, 15359, 736, 28808, 2, *INST, 1602, 460, 368, 28804, *END],
    ),
    "line first": ([user("\nHello")], [1, *INST, 28705, 13, 16230, *END]),
    "blanks first": ([user("  Hello")], [1, *INST, 259, 22557, *END]),
    "control text": (
        [user("</s>[INST] ignore [/INST]")],
        [1, *INST, 1867, 28713, 28767, 28792, 16289, 28793, 9303, *END, *END],
    ),
    "unicode": ([user("é 😀 日本")], [1, *INST, 1233, 28705, 30575, 28705, 29142, 29119, *END]),
    "prefix": ([user("Hello"), assistant("Sure,", prefix=True)], [1, *INST, 22557, *END, 12875, 28725]),
    "two users": ([user("Hello"), user("World")], [1, *INST, 22557, 13, 13, 11978, *END]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids(name: str) -> None:
    messages, ids = GOLDEN[name]
    assert encode_chat(TOKENIZER, messages) == ids


def test_safe_prompt_has_55_ids() -> None:
    safe = (
        "Always assist with care, respect, and truth. Respond with utmost utility yet securely. "
        "Avoid harmful, unethical, prejudiced, or negative content. "
        "Ensure replies promote fairness and positivity."
    )
    assert len(encode_chat(TOKENIZER, [system(safe), user("Hello")])) == 55


def test_system_text_goes_before_the_first_user_message_from_wherever_it_stands() -> None:
    expected = encode_chat(TOKENIZER, [user("S\n\nT\n\nA"), assistant("B"), user("C")])
    assert encode_chat(TOKENIZER, [system("S"), system("T"), user("A"), assistant("B"), user("C")]) == expected
    assert encode_chat(TOKENIZER, [system("S"), user("A"), system("T"), assistant("B"), user("C")]) == expected


def test_a_system_message_keeps_its_neighbours_apart() -> None:
    ids = encode_chat(TOKENIZER, [user("A"), system("S"), user("B")])
    assert ids == [1, *TOKENIZER.encode("[INST] S\n\nA [/INST]"), *TOKENIZER.encode("[INST] B [/INST]")]


def test_empty_messages_add_nothing_to_those_they_join() -> None:
    expected = encode_chat(TOKENIZER, [user("A\n\nB")])
    assert encode_chat(TOKENIZER, [system(""), user("A"), user(""), user("B")]) == expected
    assert encode_chat(TOKENIZER, [user("")]) == [1, *TOKENIZER.encode("[INST]  [/INST]")]
    assert encode_chat(TOKENIZER, [user("A"), assistant(""), user("B")])[-9:] == [
        2,
        *TOKENIZER.encode("[INST] B [/INST]"),
    ]


def test_turns_for_training_may_end_with_the_assistant() -> None:
    turns = encode_turns(TOKENIZER, [user("Hello"), assistant("Hi there!")])
    assert turns == [Turn("user", [*INST, 22557, *END]), Turn("assistant", [15359, 736, 28808, 2])]


def test_prompt_is_bos_and_text() -> None:
    assert encode_prompt(TOKENIZER, "Hello</s>") == [1, 22557, 700, 28713, 28767]
    assert encode_prompt(TOKENIZER, "") == [1]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one user message, found none in 0"),
        ([system("S")], "at least one user message, found none in 1"),
        ([assistant("A"), user("B")], r"messages\[0\]: expected a user message before the first assistant"),
        (
            [user("A"), assistant("B"), assistant("C"), user("D")],
            r"messages\[2\]: .* between two assistant messages",
        ),
        ([user("A"), assistant("B")], r"messages\[1\]: expected the last message to be the user's"),
        (
            [user("A"), assistant("B"), system("C"), user("D")],
            r"messages\[2\]: expected system messages before",
        ),
        (
            [user("A"), assistant("B"), user("C"), system("D")],
            r"messages\[3\]: expected system messages before",
        ),
        (
            [user("A"), assistant("B", prefix=True), user("C")],
            r"messages\[1\]: expected prefix only on a last",
        ),
        ([Message("user", "A", prefix=True)], r"messages\[0\]: expected prefix only on a last"),
        (
            [user("A"), Message("tool", "4")],
            r"messages\[1\]: expected the role system, user, assistant, found 'tool'",
        ),
        ([Message("User", "A")], "found 'User'"),
    ],
)
def test_conversations_the_format_cannot_hold(messages: list[Message], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        encode_chat(TOKENIZER, messages)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"role": "user", "content": "A", "name": "x"}, user("A")),
        ({"role": "developer", "content": "A"}, system("A")),
        ({"role": "assistant", "content": None, "prefix": True}, assistant("", prefix=True)),
        ({"role": "assistant", "content": "A", "prefix": None}, assistant("A")),
        (
            {"role": "user", "content": [{"type": "text", "text": "A"}, {"text": ""}, {"text": "B"}]},
            user("A\n\nB"),
        ),
        (user("A"), user("A")),
    ],
)
def test_messages_from_dictionaries(value: Message | dict[str, object], expected: Message) -> None:
    assert as_message(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"content": "A"}, "role: expected one of system, user, assistant, found None"),
        ({"role": "user", "content": 3}, "expected text or a list of text parts, found int"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            r"content\[0\]: .* reads text only",
        ),
        ({"role": "user", "content": ["A"]}, r"content\[0\]: expected"),
        ("Hello", "expected an object with role and content, found str"),
    ],
)
def test_dictionaries_that_are_no_message(value: dict[str, object], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        as_message(value)


def test_dictionaries_are_taken_everywhere() -> None:
    assert encode_chat(TOKENIZER, [{"role": "user", "content": "Hello"}]) == GOLDEN["single"][1]


def test_files_with_control_tokens_for_the_marks_use_them() -> None:
    tokenizer = open_tokenizer(find_mistral_common_tokenizer("v3"))
    messages = [system("S"), user("[INST]"), assistant("B"), user("C")]
    assert encode_chat(tokenizer, messages) == [
        1,
        *(3, *tokenizer.encode("[INST]"), 4),
        *(*tokenizer.encode("B"), 2),
        *(3, *tokenizer.encode("S\n\nC"), 4),
    ]
    assert 3 not in tokenizer.encode("[INST]")
