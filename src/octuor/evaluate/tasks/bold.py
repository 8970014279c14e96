"""BOLD: beginnings of sentences about groups of people gone on with, and how kind the words are, by group.

Source: Dhamala et al. 2021, BOLD, arXiv:2101.11718. The mean of a field is over its groups, the deviation between them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from octuor.errors import BackendError, RequestError
from octuor.evaluate.result import Document, Example, Metric, TaskResult
from octuor.evaluate.setting import Setting, read_text
from octuor.evaluate.statistics import make_metric, mean_and_deviation
from octuor.evaluate.subject import Subject, Wish
from octuor.sampling import SamplingParams
from octuor.tokenizer import encode_prompt

MAX_TOKENS = 40
WORD = re.compile(r"[^\W\d_]+")
Sentiment = Callable[[str], float]  # of a text, -1 to 1


class Bold:
    """All bold_*.json of the data folder. `--limit` counts prompts of each group."""

    name = "bold"
    about = "Sentences about people gone on with; the sentiment of what comes, mean and deviation between groups."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """Mean and deviation by field, and each group's mean."""
        sentiment, how = read_sentiment(setting.lexicon)
        asked: list[tuple[str, str, str]] = []
        for path in setting.files("bold_*.json"):
            field = path.name.partition(".")[0].removeprefix("bold_")
            for group, prompts in read_prompts(path).items():
                asked += [(field, group, text) for text in prompts[: setting.limit]]
        wishes = [
            Wish(
                tuple(encode_prompt(subject.tokenizer, text.rstrip())),
                SamplingParams(
                    temperature=1.0, top_p=0.95, max_tokens=MAX_TOKENS, seed=(setting.seed << 32) + n, stop=("\n",)
                ),
            )
            for n, (_, _, text) in enumerate(asked)
        ]
        replies = subject.answer(wishes, lambda done, total: setting.tell("continuations", done, total))
        documents, examples = [], []
        for n, ((field, group, text), reply) in enumerate(zip(asked, replies, strict=True)):
            documents.append(Document(f"{field}/{group}/{n}", {f"{field}: {group}": sentiment(reply.text)}))
            examples.append(Example(documents[-1].id, text, reply.text, "", documents[-1].scores))
        return TaskResult(
            self.name,
            self.about,
            tuple(_metrics(documents)),
            tuple(documents),
            tuple(examples[:: max(1, len(examples) // 3)][:3]),
            {"sentiment": how, "temperature": 1.0, "top_p": 0.95, "tokens": MAX_TOKENS, "seed": setting.seed},
        )


def _metrics(documents: list[Document]) -> list[Metric]:
    """By field the mean and deviation of its groups' means, then each group's mean with its interval."""
    names = list(dict.fromkeys(name for document in documents for name in document.scores))
    groups = [make_metric(name, documents, higher_is_better=None, can_be_share=False) for name in names]
    found = []
    for field in dict.fromkeys(name.partition(":")[0] for name in names):
        means = {group.name: group.value for group in groups if group.name.partition(":")[0] == field}
        n = sum(group.n for group in groups if group.name in means)
        mean, deviation = mean_and_deviation(means)
        found.append(Metric(f"{field} mean", mean, None, None, n, "given", None))
        found.append(Metric(f"{field} deviation", deviation, None, None, n, "given", False))
    return found + groups


def read_prompts(path: Path) -> dict[str, list[str]]:
    """Group -> prompts, of BOLD's JSON: group -> name -> prompts. Raises RequestError."""
    try:
        value = json.loads(read_text(path))
        return {group: [str(text) for texts in names.values() for text in texts] for group, names in value.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"{path}: expected BOLD's groups, names and prompts, found something else ({error})"
        ) from error


def read_sentiment(lexicon: Path | None) -> tuple[Sentiment, str]:
    """A sentiment by the user's lexicon, a word, a tab and its valence a line; else VADER's. And which it is.

    Raises RequestError on a lexicon that is none, BackendError where there is no VADER.
    """
    if lexicon is None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ModuleNotFoundError as error:
            raise BackendError(
                'bold: expected vaderSentiment or --lexicon, found none; pip install "octuor[eval]"'
            ) from error
        analyzer = SentimentIntensityAnalyzer()
        return (lambda text: float(analyzer.polarity_scores(text)["compound"])), "VADER, compound"
    valences: dict[str, float] = {}
    for number, line in enumerate(read_text(lexicon).splitlines(), start=1):
        if not line.strip():
            continue
        word, _, rest = line.partition("\t")
        try:
            valences[word.lower()] = float(rest.split("\t")[0])
        except ValueError as error:
            raise RequestError(
                f"{lexicon}:{number}: expected a word, a tab and a number, found {line[:40]!r}"
            ) from error

    def sentiment(text: str) -> float:
        total = sum(valences.get(word.lower(), 0.0) for word in WORD.findall(text))
        return total / math.sqrt(total * total + 15)  # VADER's way into -1 to 1

    return sentiment, f"lexicon {lexicon.name}"
