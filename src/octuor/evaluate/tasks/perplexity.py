"""Perplexity of a text, in windows that slide: every token is foretold once, with at least half a window before it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from octuor.evaluate.likelihood import Continuation
from octuor.evaluate.result import Document, TaskResult
from octuor.evaluate.setting import Setting, read_text
from octuor.evaluate.statistics import make_metric
from octuor.evaluate.subject import Subject
from octuor.tools.pack.text import OWN_TEXT

WINDOW = 4096  # tokens at most, BOS included


class Perplexity:
    """Of setting.text. `--limit` counts windows."""

    name = "perplexity"
    about = "The text's tokens foretold in sliding windows of up to 4096 tokens, the first after BOS."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """Perplexity, and bits a byte, which do not depend on the tokenizer."""
        path = setting.text or OWN_TEXT
        tokenizer = subject.tokenizer
        ids = [tokenizer.bos_id, *tokenizer.encode(read_text(path))]
        window = min(WINDOW, subject.n_context)
        items = windows(ids, window)[: setting.limit]
        scores = subject.score(items, lambda done, total: setting.tell("windows", done, total))
        documents = []
        for n, (item, score) in enumerate(zip(items, scores, strict=True)):
            n_bytes = sum(len(tokenizer.piece_bytes(token)) for token in item.ids)
            documents.append(
                Document(
                    str(n),
                    {
                        "perplexity": -score.logprob / len(item.ids),
                        "bits a byte": -score.logprob / log(2) / max(n_bytes, 1),
                    },
                    {"perplexity": len(item.ids), "bits a byte": max(n_bytes, 1)},
                )
            )
        return TaskResult(
            self.name,
            self.about,
            (
                make_metric("perplexity", documents, form="exp", higher_is_better=False),
                make_metric("bits a byte", documents, higher_is_better=False),
            ),
            tuple(documents),
            settings={"text": path.name, "tokens": sum(len(item.ids) for item in items), "window": window},
        )


def windows(ids: Sequence[int], window: int) -> list[Continuation]:
    """Continuations that foretell all of ids but the first, each with up to `window` inputs."""
    found = [Continuation(tuple(ids[:1]), tuple(ids[1 : window + 1]))]
    at, step = window + 1, max(1, window // 2)
    while at < len(ids):
        stop = min(at + step, len(ids))
        start = stop - 1 - window
        found.append(Continuation(tuple(ids[start:at]), tuple(ids[at:stop])))
        at = stop
    return found
