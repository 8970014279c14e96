"""Multiple choice by likelihood, as our own tasks ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octuor.evaluate.likelihood import Continuation
from octuor.evaluate.setting import Setting
from octuor.evaluate.subject import Subject
from octuor.tokenizer import encode_prompt


@dataclass(frozen=True)
class Choice:
    """A prompt and what may follow it, each text beginning with its own blank."""

    prompt: str
    texts: tuple[str, ...]


def continuation(subject: Subject, prompt: str, text: str) -> Continuation:
    """The ids of a prompt after BOS, and those that the text adds when both are encoded as one."""
    context = encode_prompt(subject.tokenizer, prompt)
    whole = encode_prompt(subject.tokenizer, prompt + text)
    return Continuation(tuple(whole[: len(context)]), tuple(whole[len(context) :]))


def log_likelihoods(subject: Subject, choices: Sequence[Choice], setting: Setting) -> list[list[float]]:
    """The log-likelihood of each text of each choice."""
    items = [continuation(subject, choice.prompt, text) for choice in choices for text in choice.texts]
    scores = iter(subject.score(items, lambda done, total: setting.tell("continuations", done, total)))
    return [[next(scores).logprob for _ in choice.texts] for choice in choices]


def likeliest(values: Sequence[float]) -> int:
    """Where the largest value is; the first of equals."""
    return max(range(len(values)), key=lambda at: (values[at], -at))
