"""The Instruct format against mistral-common itself, live, on conversations drawn from a seed."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from octuor.tokenizer import Message, encode_chat, find_mistral_common_tokenizer, open_tokenizer

pytest.importorskip("mistral_common")

from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

N_CONVERSATIONS = 2000
SEED = 8
FRAGMENTS = [
    *(
        "Hello",
        "how are you?",
        "é",
        "😀",
        "🦑",
        "日本語",
        "Ελλάδα",
        "שלום",
        "e\u0301",
        "\u200d",
        "ﬁ",
        "\u00a0",
        "𝄞",
    ),
    *("</s>", "<s>", "<unk>", "[INST]", "[/INST]", "<0x0A>", "<<SYS>>", "▁", "▁▁Hi"),
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\x00",
        "\x7f",
        "\u2028",
        "    ",
        "0",
        "1234567890",
        "def f(x):\n    return x",
    ),
]


def text(rng: random.Random, *, empty: bool = True) -> str:
    pieces = [rng.choice(FRAGMENTS) for _ in range(rng.randrange(0 if empty else 1, 8))]
    pieces += [
        chr(rng.choice((rng.randrange(0x20, 0x800), rng.randrange(0x3000, 0x9FFF)))) for _ in range(rng.randrange(3))
    ]
    rng.shuffle(pieces)
    return rng.choice(("", " ")).join(pieces)


def conversation(rng: random.Random) -> list[Message]:
    """A conversation that mistral-common accepts: no empty assistant, no late system message."""
    messages = [Message("system", text(rng)) for _ in range(rng.choice((0, 0, 1, 2)))]
    n_turns = rng.randrange(1, 5)
    for turn in range(n_turns):
        if turn:
            messages.append(Message("assistant", text(rng, empty=False)))
        for repeat in range(rng.choice((1, 1, 1, 2, 3))):
            if turn == 0 and repeat and rng.random() < 0.3:
                messages.append(Message("system", text(rng)))
            messages.append(Message("user", text(rng)))
    if rng.random() < 0.3:
        messages.append(Message("assistant", text(rng, empty=False), prefix=True))
    return messages


def oracle_request(messages: list[Message]) -> ChatCompletionRequest:
    types = {"system": SystemMessage, "user": UserMessage}
    return ChatCompletionRequest(
        messages=[
            AssistantMessage(content=message.content, prefix=message.prefix)
            if message.role == "assistant"
            else types[message.role](content=message.content)
            for message in messages
        ]
    )


def features(messages: list[Message]) -> set[str]:
    roles = [message.role for message in messages]
    pairs = list(pairwise(roles))
    joined = "".join(message.content for message in messages)
    found = {
        "system": "system" in roles,
        "two systems": roles.count("system") > 1,
        "system after user": ("user", "system") in pairs,
        "users in a row": ("user", "user") in pairs,
        "several turns": "assistant" in roles[:-1],
        "prefix": messages[-1].prefix,
        "empty": any(not message.content for message in messages),
        "blank first": any(message.content[:1].isspace() for message in messages),
        "blank last": any(message.content[-1:].isspace() for message in messages),
        "assistant blank last": any(m.role == "assistant" and m.content[-1:] == " " for m in messages),
        "control text": any(mark in joined for mark in ("</s>", "<s>", "[INST]", "[/INST]")),
        "byte fallback": "🦑" in joined,
        "unicode": not joined.isascii(),
    }
    return {name for name, present in found.items() if present}


@pytest.mark.parametrize(("version", "oracle"), [("v1", MistralTokenizer.v1), ("v3", MistralTokenizer.v3)])
def test_ids_agree_with_mistral_common(version: str, oracle: type) -> None:
    rng = random.Random(SEED)
    theirs, ours = oracle(), open_tokenizer(find_mistral_common_tokenizer(version))
    seen: Counter[str] = Counter()
    for _ in range(N_CONVERSATIONS):
        messages = conversation(rng)
        expected = theirs.encode_chat_completion(oracle_request(messages)).tokens
        assert encode_chat(ours, messages) == expected, messages
        seen.update(features(messages))
    assert min(seen.values()) >= N_CONVERSATIONS // 20, seen
    assert len(seen) == 13, seen
