"""How far a model's next-token distributions are from another's, such as a pack's from its source's."""

from __future__ import annotations

from itertools import islice

import numpy as np

from octuor.api import load
from octuor.errors import RequestError
from octuor.evaluate.result import Document, TaskResult
from octuor.evaluate.setting import Setting, read_text
from octuor.evaluate.statistics import make_metric
from octuor.evaluate.subject import Subject
from octuor.tools.pack.sensitivity import divergence
from octuor.tools.pack.text import OWN_TEXT, SEPARATOR, WINDOW
from octuor.tools.pack.walk import log_softmax


class Divergence:
    """From setting.reference, on setting.text. `--limit` counts passages."""

    name = "divergence"
    about = "KL divergence from the reference's next-token distribution, nats a token, and how often both agree."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """KL and agreement of the likeliest token over passages of up to 512 tokens, each after BOS."""
        if setting.reference is None:
            raise RequestError("divergence: expected a model to compare with, found none; name it with --reference")
        model, other = subject.model, load(setting.reference, threads=getattr(subject.model.ops, "threads", None))
        if other.config.vocab_size != model.config.vocab_size:
            raise RequestError(
                f"{setting.reference}: expected a vocabulary of {model.config.vocab_size}, found "
                f"{other.config.vocab_size}; only models with the same tokenizer can be compared"
            )
        path = setting.text or OWN_TEXT
        passages = list(islice(self._passages(subject, read_text(path)), setting.limit))
        documents = []
        for n, ids in enumerate(passages):
            exact, found = log_softmax(other.logits(ids)), log_softmax(model.logits(ids))
            same = exact.argmax(axis=1) == found.argmax(axis=1)
            scores = {"KL": float(divergence(exact, found).mean()), "agreement": float(np.mean(same))}
            documents.append(Document(str(n), scores, dict.fromkeys(scores, float(len(ids)))))
            setting.tell("passages", n + 1, len(passages))
        return TaskResult(
            self.name,
            self.about,
            (make_metric("KL", documents, higher_is_better=False), make_metric("agreement", documents)),
            tuple(documents),
            settings={"text": path.name, "reference": setting.reference, "tokens": sum(map(len, passages))},
        )

    def _passages(self, subject: Subject, text: str) -> list[list[int]]:
        tokenizer = subject.tokenizer
        found = []
        for passage in text.split(SEPARATOR):
            ids = tokenizer.encode(passage.strip("\n"))
            found += [[tokenizer.bos_id, *ids[at : at + WINDOW - 1]] for at in range(0, len(ids), WINDOW - 1)]
        return found
