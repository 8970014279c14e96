"""A number hidden in a long text, to be said at its end: whether the model finds it, by length and place.

Source: Mohtashami & Jaggi 2023, Landmark Attention, arXiv:2305.16300, section 4.2; Mixtral's paper measures it to 32k.
"""

from __future__ import annotations

import random

from octuor.evaluate.result import Document, Example, TaskResult
from octuor.evaluate.setting import Setting
from octuor.evaluate.statistics import make_metric
from octuor.evaluate.subject import Subject, Wish
from octuor.sampling import SamplingParams

SHORTEST = 256
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
EACH = 4  # keys of a length and place, where no limit says less
BEGINNING = "Somewhere in this text there is a pass key. Find it and remember it; nothing else matters.\n"
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
KEY = "The pass key is {key}. Remember it. {key} is the pass key.\n"
QUESTION = "What is the pass key? The pass key is"
ANSWER_TOKENS = 10


class Passkey:
    """Texts from 256 tokens up to setting.longest or the model's context. `--limit` counts keys a length and place."""

    name = "passkey"
    about = (
        "A five-digit number said in a long text of no interest, asked for at its end; it must be the answer's first."
    )

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """The share of keys found, in all and by length."""
        longest = min(setting.longest, subject.n_context - ANSWER_TOKENS)
        lengths = [n for n in (SHORTEST << k for k in range(20)) if n < longest] + [longest]
        each = EACH if setting.limit is None else setting.limit
        asked: list[tuple[str, int, str, tuple[int, ...]]] = []
        for length in lengths:
            for place in PLACES:
                for n in range(each):
                    key = str(random.Random(f"{setting.seed} {length} {place} {n}").randint(10000, 99999))
                    asked.append((f"{length}, {place:.0%}, {n}", length, key, prompt_ids(subject, length, place, key)))
        params = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS)
        replies = subject.answer(
            [Wish(ids, params, is_chat=True) for *_, ids in asked],
            lambda done, total: setting.tell("keys", done, total),
        )
        documents, examples = [], []
        for (name, length, key, ids), reply in zip(asked, replies, strict=True):
            found = float(reply.text.strip().startswith(key))
            documents.append(Document(name, {"found": found, f"found at {length}": found}))
            examples.append(Example(name, subject.tokenizer.decode(ids), reply.text, key, {"found": found}))
        names = ["found", *(f"found at {length}" for length in lengths)]
        return TaskResult(
            self.name,
            self.about,
            tuple(make_metric(name, documents) for name in names),
            tuple(documents),
            tuple(examples[:: max(1, len(examples) // 3)][:3]),
            {"shots": 0, "lengths": lengths, "places": PLACES, "keys of each": each, "seed": setting.seed},
        )


def prompt_ids(subject: Subject, length: int, place: float, key: str) -> tuple[int, ...]:
    """A text of at most `length` tokens, BOS included, with the key after that share of the filler."""
    tokenizer = subject.tokenizer
    filler, start = tokenizer.encode(FILLER), [tokenizer.bos_id, *tokenizer.encode(BEGINNING)]
    middle, end = tokenizer.encode(KEY.format(key=key)), tokenizer.encode(QUESTION)
    n_fillers = max(0, (length - len(start) - len(middle) - len(end)) // len(filler))
    before = round(place * n_fillers)
    return (*start, *filler * before, *middle, *filler * (n_fillers - before), *end)
