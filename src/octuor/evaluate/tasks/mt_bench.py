"""MT-Bench: two-turn questions, answers in FastChat's format, and grades of 1 to 10 by a judge where there is one.

Source: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685; temperatures and formats as FastChat's llm_judge.
The judge's words are ours, unless the data folder has FastChat's judge_prompts.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.checkpoint.files import replacing
from octuor.errors import RequestError
from octuor.evaluate.journal import key_of
from octuor.evaluate.judge import Judge, read_rating
from octuor.evaluate.result import Document, Example, Metric, TaskResult
from octuor.evaluate.setting import Setting, read_rows
from octuor.evaluate.statistics import make_metric
from octuor.evaluate.subject import Reply, Subject, Wish
from octuor.sampling import SamplingParams
from octuor.tokenizer import encode_chat

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}  # of all others 0
WITH_REFERENCE = ("math", "reasoning", "coding")
MAX_TOKENS = 1024
AT_ONCE = 8  # judgements under way
ANSWERS, JUDGEMENTS = "mt_bench_answers.jsonl", "mt_bench_judgements.jsonl"

SYSTEM = (
    "You grade answers of chat assistants. You are strict and fair; length and politeness earn nothing by themselves."
)
GRADE = (
    "Grade the assistant's {which} for how well it does what the user asked: whether it is right, complete, to the "
    "point and well put.{reference} First say in a few sentences what is good and what is wrong. Then end with a grade "
    "from 1 (useless) to 10 (could not be better), between double brackets and on a line of its own: [[grade]]\n\n"
)
REFERENCE = " Hold it against the reference answer, which is right, and name each mistake."
ONE_TURN = "<question>\n{question}\n</question>\n{reference}<answer>\n{answer}\n</answer>"
TWO_TURNS = (
    "<first question>\n{question_1}\n</first question>\n{reference_1}<first answer>\n{answer_1}\n</first answer>\n"
    "<second question>\n{question_2}\n</second question>\n{reference_2}<second answer>\n{answer_2}\n</second answer>"
)


@dataclass(frozen=True)
class Question:
    """A row of the questions' file; references: its right answers, where there are some."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


class MtBench:
    """Questions of mt_bench_questions.jsonl or question.jsonl; references of reference_answer files beside it."""

    name = "mt_bench"
    about = "Eighty questions of two turns in eight fields; each answer is graded from 1 to 10 by a judge."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """The mean grade, by turn and by field; without a judge, the answers and how many ended by themselves."""
        questions = read_questions(setting)[: setting.limit]
        judge = None if setting.judge is None else Judge(setting.judge, setting.judge_model, setting.judge_key).named()
        answers = answer(subject, questions, setting)
        if setting.out is not None:
            write_answers(setting.out / ANSWERS, questions, answers, subject.model.checkpoint.source.name)
        documents = [
            Document(f"{question.id}/{turn + 1}", {"ended": float(reply.finish == "stop")})
            for question, replies in zip(questions, answers, strict=True)
            for turn, reply in enumerate(replies)
        ]
        metrics: tuple[Metric, ...] = (make_metric("ended", documents, higher_is_better=None),)
        n_unread = 0
        if judge is not None:
            said = grade(subject, judge, questions, answers, setting)
            documents, metrics, n_unread = _graded(questions, documents, said)
            if setting.out is not None:
                _write_rows(setting.out / JUDGEMENTS, said.values())
        return TaskResult(
            self.name,
            self.about,
            metrics,
            tuple(documents),
            tuple(_example(question, replies) for question, replies in zip(questions[:3], answers, strict=False)),
            {
                "judge": None if judge is None else judge.model,
                "judge's words": "FastChat's" if _prompt_file(setting) else "ours",
                "unreadable grades": n_unread,
                "temperatures": TEMPERATURES,
                "tokens": MAX_TOKENS,
                "seed": setting.seed,
            },
        )


def read_questions(setting: Setting) -> list[Question]:
    """The file's questions. Raises RequestError."""
    references: dict[str, tuple[str, ...]] = {}
    for name in ("mt_bench_reference_gpt4.jsonl", "gpt-4.jsonl", "reference_answer.jsonl"):
        try:
            path = setting.file(name)
        except RequestError:
            continue
        references = {
            str(row["question_id"]): tuple(row["choices"][0]["turns"])
            for row in read_rows(path, "question_id", "choices")
        }
        break
    rows = read_rows(setting.file("mt_bench_questions.jsonl", "question.jsonl"), "question_id", "category", "turns")
    return [
        Question(
            str(row["question_id"]), row["category"], tuple(row["turns"]),
            references.get(str(row["question_id"]), ()) if row["category"] in WITH_REFERENCE else (),
        )
        for row in rows
    ]  # fmt: skip


def answer(subject: Subject, questions: Sequence[Question], setting: Setting) -> list[list[Reply]]:
    """Each question's answers, turn after turn; a later turn is asked after the earlier answers."""
    replies: list[list[Reply]] = [[] for _ in questions]
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked = [n for n, question in enumerate(questions) if len(question.turns) > turn]
        wishes = [_wish(subject, questions[n], replies[n], setting) for n in asked]
        what = f"answers of turn {turn + 1}"
        found = subject.answer(wishes, lambda done, total, what=what: setting.tell(what, done, total))  # type: ignore[misc]
        for n, reply in zip(asked, found, strict=True):
            replies[n].append(reply)
    return replies


def _wish(subject: Subject, question: Question, said: Sequence[Reply], setting: Setting) -> Wish:
    messages = []
    for turn, text in enumerate(question.turns[: len(said) + 1]):
        messages.append({"role": "user", "content": text})
        if turn < len(said):
            messages.append({"role": "assistant", "content": said[turn].text})
    params = SamplingParams(
        temperature=TEMPERATURES.get(question.category, 0.0),
        max_tokens=min(MAX_TOKENS, max(1, subject.n_context // 2)),
        seed=setting.seed,
    )
    return Wish(tuple(encode_chat(subject.tokenizer, messages)), params, is_chat=True)


def write_answers(path: Path, questions: Sequence[Question], answers: Sequence[Sequence[Reply]], model: str) -> None:
    """A file that FastChat's own programs read."""
    _write_rows(
        path,
        (
            {
                "question_id": int(question.id) if question.id.isdigit() else question.id,
                "answer_id": key_of(question.id, model, [reply.text for reply in replies]),
                "model_id": model,
                "choices": [{"index": 0, "turns": [reply.text for reply in replies]}],
                "tstamp": time.time(),
            }
            for question, replies in zip(questions, answers, strict=True)
        ),
    )


def judge_messages(
    question: Question, replies: Sequence[Reply], turn: int, templates: Mapping[str, Any]
) -> list[dict[str, str]]:
    """What the judge is asked of one turn. templates: FastChat's by name, or none."""
    has_reference = len(question.references) > turn
    name = f"single{'-math' if has_reference else ''}-v1{'-multi-turn' if turn else ''}"
    values = {
        "question": question.turns[0], "answer": replies[0].text,
        **{f"question_{n + 1}": text for n, text in enumerate(question.turns)},
        **{f"answer_{n + 1}": reply.text for n, reply in enumerate(replies)},
        **{f"ref_answer_{n + 1}": text for n, text in enumerate(question.references)},
    }  # fmt: skip
    if name in templates:
        row = templates[name]
        text = row["prompt_template"].format(**values)
        return [{"role": "system", "content": row["system_prompt"]}, {"role": "user", "content": text}]

    def reference(n: int) -> str:
        return f"<reference>\n{question.references[n]}\n</reference>\n" if has_reference else ""

    which = "answer" if turn == 0 else "second answer, given all that was said before"
    text = GRADE.format(which=which, reference=REFERENCE if has_reference else "")
    if turn == 0:
        text += ONE_TURN.format(**values, reference=reference(0))
    else:
        text += TWO_TURNS.format(**values, reference_1=reference(0), reference_2=reference(1))
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def grade(
    subject: Subject, judge: Judge, questions: Sequence[Question], answers: Sequence[Sequence[Reply]], setting: Setting
) -> dict[str, dict[str, Any]]:
    """What the judge said of each turn, by document: in FastChat's words, score -1 where it cannot be read."""
    file = _prompt_file(setting)
    templates = (
        {}
        if file is None
        else {row["name"]: row for row in read_rows(file, "name", "prompt_template", "system_prompt")}
    )
    asked = [
        (question, turn, judge_messages(question, replies, turn, templates))
        for question, replies in zip(questions, answers, strict=True)
        for turn in range(len(replies))
    ]

    def ask(messages: list[dict[str, str]]) -> str:
        key = key_of("judge", judge.model, messages)
        known = subject.recall(key)
        return str(known["text"]) if known is not None else judge.ask(messages)

    found: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        texts = pool.map(ask, [messages for _, _, messages in asked])
        for (question, turn, messages), text in zip(asked, texts, strict=True):
            subject.keep(key_of("judge", judge.model, messages), {"text": text})
            rating = read_rating(text)
            found[f"{question.id}/{turn + 1}"] = {
                "question_id": question.id, "turn": turn + 1, "judge": [judge.model, "single"], "judgment": text,
                "score": -1 if rating is None else rating,
            }  # fmt: skip
            setting.tell("grades", len(found), len(asked))
    return found


def _graded(
    questions: Sequence[Question], documents: Sequence[Document], said: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Document], tuple[Metric, ...], int]:
    """Documents with their grades, the figures, and how many grades could not be read."""
    fields = {question.id: question.category for question in questions}
    graded = []
    for document in documents:
        score, (question, _, turn) = float(said[document.id]["score"]), document.id.partition("/")
        kinds = ("score", f"turn {turn}", fields[question]) if score >= 0 else ()
        graded.append(Document(document.id, {**document.scores, **dict.fromkeys(kinds, score)}))
    names = sorted({name for document in graded for name in document.scores}, key=lambda name: (name != "score", name))
    metrics = tuple(make_metric(name, graded, higher_is_better=None if name == "ended" else True) for name in names)
    return graded, metrics, sum(float(row["score"]) < 0 for row in said.values())


def _prompt_file(setting: Setting) -> Path | None:
    try:
        return setting.file("judge_prompts.jsonl")
    except RequestError:
        return None


def _write_rows(path: Path, rows: Any) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
    with replacing(path, len(data), overwrite=True) as file:
        file.write(data)


def _example(question: Question, replies: Sequence[Reply]) -> Example:
    talk = "\n\n".join(f"[{text}]\n{reply.text}" for text, reply in zip(question.turns, replies, strict=False))
    return Example(f"{question.id}, {question.category}", question.turns[0], talk)
