"""Multiple choice in several languages, by language: questions of the user's, such as translated ARC or HellaSwag."""

from __future__ import annotations

from octuor.evaluate.choices import Choice, likeliest, log_likelihoods
from octuor.evaluate.result import Document, Example, TaskResult
from octuor.evaluate.setting import Setting, read_rows
from octuor.evaluate.statistics import make_metric
from octuor.evaluate.subject import Subject

WORDS = {  # question, answer
    "en": ("Question", "Answer"),
    "fr": ("Question", "Réponse"),
    "de": ("Frage", "Antwort"),
    "es": ("Pregunta", "Respuesta"),
    "it": ("Domanda", "Risposta"),
}


class Multilingual:
    """Rows of multilingual.jsonl: {"language": "fr", "question": ..., "choices": [...], "answer": 0}."""

    name = "multilingual"
    about = "Multiple choice by language; the choice that is the likeliest answer counts, also by its length in bytes."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """Accuracy over all and by language. `--limit` counts questions of each language."""
        counts: dict[str, int] = {}
        rows = []
        for row in read_rows(setting.file("multilingual.jsonl"), "language", "question", "choices", "answer"):
            counts[row["language"]] = counts.get(row["language"], 0) + 1
            if setting.limit is None or counts[row["language"]] <= setting.limit:
                rows.append(row)
        asked = []
        for row in rows:
            question, answer = WORDS.get(row["language"], WORDS["en"])
            asked.append(
                Choice(f"{question}: {row['question']}\n{answer}:", tuple(f" {text}" for text in row["choices"]))
            )
        found = log_likelihoods(subject, asked, setting)
        documents, examples = [], []
        for n, (row, choice, values) in enumerate(zip(rows, asked, found, strict=True)):
            by_length = [value / len(text.encode()) for value, text in zip(values, choice.texts, strict=True)]
            right = float(likeliest(values) == int(row["answer"]))
            normed = float(likeliest(by_length) == int(row["answer"]))
            scores = {
                "accuracy": right, "accuracy by length": normed, f"accuracy, {row['language']}": right,
                f"accuracy by length, {row['language']}": normed,
            }  # fmt: skip
            documents.append(Document(str(n), scores))
            examples.append(
                Example(
                    str(n), choice.prompt, choice.texts[likeliest(values)], choice.texts[int(row["answer"])], scores
                )
            )
        names = dict.fromkeys(name for document in documents for name in document.scores)
        metrics = tuple(make_metric(name, documents) for name in names)
        return TaskResult(self.name, self.about, metrics, tuple(documents), tuple(examples[:3]), {"shots": 0})
