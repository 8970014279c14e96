"""Tasks over models that say what they are told to: the figures must be those of the answers."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_openai import Asked, FakeServer, serving_thread, whole
from octuor.errors import BackendError, RequestError
from octuor.evaluate.likelihood import Continuation
from octuor.evaluate.registry import TASKS, own_tasks
from octuor.evaluate.setting import Setting
from octuor.evaluate.subject import Reply, Subject
from octuor.evaluate.tasks.bbq import Bbq, scores
from octuor.evaluate.tasks.bold import Bold
from octuor.evaluate.tasks.code import HumanEval, Mbpp, Problem, program_of
from octuor.evaluate.tasks.divergence import Divergence
from octuor.evaluate.tasks.mt_bench import MtBench
from octuor.evaluate.tasks.multilingual import Multilingual
from octuor.evaluate.tasks.passkey import Passkey, prompt_ids
from octuor.evaluate.tasks.perplexity import Perplexity, windows
from tiny_models import random_checkpoint, write_model
from under_test import Says, WriteRows


def test_names_are_unique_and_tasks_say_what_they_ask() -> None:
    assert len(own_tasks()) == len(TASKS)
    assert all(task.about.endswith(".") for task in TASKS)


@pytest.mark.parametrize(("n", "window"), [(1, 8), (2, 8), (9, 8), (10, 8), (40, 8), (41, 7), (5, 1)])
def test_windows_foretell_each_token_once(n: int, window: int) -> None:
    ids = list(range(n))
    found = [item for item in windows(ids, window) if item.ids]
    assert [token for item in found for token in item.ids] == ids[1:]
    for item in found:
        whole_text = (*item.context, *item.ids)
        assert len(whole_text) - 1 <= window
        assert whole_text == tuple(ids[whole_text[0] : whole_text[-1] + 1])
    assert all(len(item.context) >= window // 2 for item in found[1:])


def test_perplexity_is_that_of_the_whole_text(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The dog ran home. It was late, and nobody was there.")
    result = Perplexity().run(subject, Setting(text=path))
    ids = [1, *subject.tokenizer.encode(path.read_text())]
    score = subject.score([Continuation((1,), tuple(ids[1:]))])[0]
    assert result.documents[0].scores["perplexity"] == pytest.approx(-score.logprob / (len(ids) - 1))
    assert result.settings["tokens"] == len(ids) - 1


def test_a_model_diverges_from_another_and_not_from_itself(subject: Subject, tmp_path: Path) -> None:
    same = write_model(random_checkpoint(seed=0), tmp_path / "same.octuor")
    other = write_model(random_checkpoint(seed=1), tmp_path / "other.octuor")
    text = tmp_path / "text.txt"
    text.write_text("One passage of a text.\n----\nAnother passage of it.")
    found = Divergence().run(subject, Setting(text=text, reference=str(same)))
    assert found.metric("KL").value == pytest.approx(0.0, abs=1e-9)
    assert found.metric("agreement").value == 1.0
    assert Divergence().run(subject, Setting(text=text, reference=str(other))).metric("KL").value > 0.1
    with pytest.raises(RequestError, match="--reference"):
        Divergence().run(subject, Setting(text=text))


def test_a_passkey_stands_where_it_should(subject: Subject) -> None:
    for place in (0.0, 0.5, 1.0):
        ids = prompt_ids(subject, 400, place, "12345")
        text = subject.tokenizer.decode(ids[1:])
        assert 350 < len(ids) <= 400
        assert text.count("12345") == 2
        at = text.index("The pass key is 12345") / (text.index("What is the pass key") - 40)
        assert at == pytest.approx(0.1 + 0.9 * place, abs=0.12)


def test_a_model_that_does_not_look_finds_no_passkey(says: Says) -> None:
    with says("54321") as subject:
        result = Passkey().run(subject, Setting(limit=1, longest=300))
    assert [metric.name for metric in result.metrics] == ["found", "found at 256", "found at 300"]
    assert result.metric("found").value == 0.0
    assert result.metric("found").n == 10


HUMANEVAL = {
    "task_id": "T/0", "prompt": "def two():\n    return", "entry_point": "two",
    "test": "def check(f):\n    assert f() == 2",
}  # fmt: skip


def test_programs_are_run_against_their_tests(says: Says, write_rows: WriteRows, tmp_path: Path) -> None:
    write_rows(
        "humaneval.jsonl", [HUMANEVAL, {**HUMANEVAL, "task_id": "T/1", "test": "def check(f):\n    assert f() == 3"}]
    )
    with says("2") as subject:
        result = HumanEval().run(subject, Setting(data=tmp_path, n_samples=2, is_unsafe=True))
    assert [document.scores["pass@1"] for document in result.documents] == [1.0, 0.0]
    assert result.settings["outcomes"] == {"failed (1)": 2, "passed": 2}


def test_mbpp_shows_examples_and_asks_the_test_part(says: Says, write_rows: WriteRows, tmp_path: Path) -> None:
    row = {"text": "Write it.", "code": "x = 1", "test_list": ["assert x == 7", "assert True"], "test_setup_code": ""}
    write_rows("mbpp.jsonl", [{**row, "task_id": n} for n in (1, 2, 3, 4, 11, 511)])
    with says("\nx=7") as subject:
        result = Mbpp().run(subject, Setting(data=tmp_path, is_unsafe=True))
    assert [document.id for document in result.documents] == ["11"]
    assert result.metric("pass@1").value == 1.0
    assert result.examples[0].prompt.count("[BEGIN]\nx = 1\n[DONE]") == 3


@pytest.mark.parametrize("answer", ["Here:\n```python\nx = 2\n```\nDone.", "```\nx = 2\n", "x = 2"])
def test_a_chats_program_is_its_first_code_block(answer: str) -> None:
    problem = Problem("0", "p", "r", "before", "tests", ())
    assert program_of(problem, Reply(answer, 1, "stop"), True).split() == ["x", "=", "2", "tests"]
    assert program_of(problem, Reply(" 2", 1, "stop"), False) == "before 2\ntests"


QUESTIONS = [
    {"question_id": 1, "category": "math", "turns": ["What is 1 + 1?", "And 2 + 2?"]},
    {"question_id": 2, "category": "writing", "turns": ["Say hello.", "Again."]},
]


def test_mt_bench_answers_and_is_graded(says: Says, write_rows: WriteRows, tmp_path: Path) -> None:
    write_rows("mt_bench_questions.jsonl", QUESTIONS)
    write_rows("mt_bench_reference_gpt4.jsonl", [{"question_id": 1, "choices": [{"turns": ["2", "4"]}]}])

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        text = asked.body["messages"][1]["content"]
        grade = "no grade" if "Again." in text else "Wrong.\n[[2]]" if "<reference>\n4" in text else "[[9]]"
        yield whole({"choices": [{"message": {"content": grade}}]})

    out = tmp_path / "out"
    out.mkdir()
    with serving_thread(FakeServer(answer)) as server, says("Hello there") as subject:
        result = MtBench().run(subject, Setting(data=tmp_path, judge=server.url, out=out))
    assert {metric.name: metric.value for metric in result.metrics} == {
        "score": pytest.approx(20 / 3), "ended": 1.0, "math": 5.5, "turn 1": 9.0, "turn 2": 2.0, "writing": 9.0,
    }  # fmt: skip
    assert result.settings["unreadable grades"] == 1
    rows = [json.loads(line) for line in (out / "mt_bench_answers.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [1, 2]
    assert rows[0]["choices"] == [{"index": 0, "turns": ["Hello there", "Hello there"]}]
    graded = [json.loads(line) for line in (out / "mt_bench_judgements.jsonl").read_text().splitlines()]
    assert [row["score"] for row in graded] == [9.0, 2.0, 9.0, -1]


def test_mt_bench_takes_fastchats_words(says: Says, write_rows: WriteRows, tmp_path: Path) -> None:
    write_rows("question.jsonl", QUESTIONS[1:])
    template = {"system_prompt": "S", "prompt_template": "{question}|{answer}", "name": "single-v1"}
    multi = {"system_prompt": "M", "prompt_template": "{question_2}|{answer_2}", "name": "single-v1-multi-turn"}
    write_rows("judge_prompts.jsonl", [template, multi])

    async def answer(asked: Asked) -> AsyncIterator[bytes]:  # noqa: ARG001
        yield whole({"choices": [{"message": {"content": "[[5]]"}}]})

    with serving_thread(FakeServer(answer)) as server, says("Hi") as subject:
        MtBench().run(subject, Setting(data=tmp_path, judge=server.url, judge_model="m"))
    asked = sorted(tuple(message["content"] for message in call.body["messages"]) for call in server.asked)
    assert asked == [("M", "Again.|Hi"), ("S", "Say hello.|Hi")]


BBQ = {
    "context": "C.", "question": "Who?", "ans0": "The old one", "ans1": "The young one", "ans2": "Unknown", "label": 2,
    "context_condition": "ambig", "question_polarity": "neg", "category": "Age",
    "answer_info": {"ans0": ["grandfather", "old"], "ans1": ["grandson", "nonOld"], "ans2": ["?", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "polarity", "chosen", "right", "bias"),
    [
        ("ambig", "neg", 0, 0.0, 1.0), ("ambig", "neg", 1, 0.0, -1.0), ("ambig", "neg", 2, 1.0, 0.0),
        ("ambig", "nonneg", 0, 0.0, -1.0), ("ambig", "nonneg", 1, 0.0, 1.0),
        ("disambig", "neg", 0, 0.0, 1.0), ("disambig", "nonneg", 1, 0.0, 1.0), ("disambig", "neg", 2, 1.0, None),
    ],
)  # fmt: skip
def test_an_answer_that_follows_the_stereotype_is_biased(
    condition: str, polarity: str, chosen: int, right: float, bias: float | None
) -> None:
    name = "ambiguous" if condition == "ambig" else "disambiguated"
    found = scores({**BBQ, "context_condition": condition, "question_polarity": polarity}, chosen)
    assert found["accuracy"] == found[f"accuracy, {name}"] == found["accuracy, Age"] == right
    assert found.get(f"bias, {name}") == bias


def test_who_is_meant_must_be_clear() -> None:
    found = scores({**BBQ, "additional_metadata": {"stereotyped_groups": ["grandson", "old"]}}, 0)
    assert not any(name.startswith("bias") for name in found)


def test_bbq_reads_every_file(subject: Subject, write_rows: WriteRows, tmp_path: Path) -> None:
    write_rows("bbq_Age.jsonl", [BBQ, {**BBQ, "context_condition": "disambig"}, BBQ])
    write_rows("bbq_Other.jsonl", [{**BBQ, "category": "Other"}])
    result = Bbq().run(subject, Setting(data=tmp_path, limit=2))
    assert [document.id for document in result.documents] == ["bbq_Age/0", "bbq_Age/1", "bbq_Other/0"]
    assert result.metric("accuracy").n == 3


def test_bold_measures_what_was_said_by_group(says: Says, tmp_path: Path) -> None:
    groups = {"actors": {"A": ["A is ", "A was "]}, "actresses": {"B": ["B is "]}}
    (tmp_path / "bold_gender.json").write_text(json.dumps(groups))
    (tmp_path / "words.tsv").write_text("wonderful\t2.7\nbad\t-2.5\n")
    with says("a wonderful person") as subject:
        result = Bold().run(subject, Setting(data=tmp_path, lexicon=tmp_path / "words.tsv"))
    expected = 2.7 / (2.7**2 + 15) ** 0.5
    assert result.metric("gender mean").value == pytest.approx(expected)
    assert result.metric("gender deviation").value == pytest.approx(0.0)
    assert result.metric("gender: actors").n == 2


def test_bold_without_a_lexicon(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    (tmp_path / "bold_gender.json").write_text("[]")
    (tmp_path / "words.tsv").write_text("no number\n")
    with pytest.raises(RequestError, match=r"words\.tsv:1: expected a word, a tab and a number"):
        Bold().run(subject, Setting(data=tmp_path, lexicon=tmp_path / "words.tsv"))
    with pytest.raises(BackendError, match="vaderSentiment or --lexicon"):
        Bold().run(subject, Setting(data=tmp_path))


def test_multilingual_counts_by_language(subject: Subject, write_rows: WriteRows, tmp_path: Path) -> None:
    row = {"question": "Où ?", "choices": ["ici", "là"], "answer": 0}
    write_rows("multilingual.jsonl", [{**row, "language": language} for language in ("fr", "fr", "de", "fr")])
    result = Multilingual().run(subject, Setting(data=tmp_path, limit=2))
    assert result.metric("accuracy").n == 3
    assert result.metric("accuracy, de").n == 1
    assert "Réponse:" in result.examples[0].prompt


def test_files_that_are_not_there_are_named(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"expected the folder with humaneval\.jsonl, found none; name it with --data"
    ):
        HumanEval().run(subject, Setting())
    with pytest.raises(RequestError, match=r"expected files bbq_\*\.jsonl there"):
        Bbq().run(subject, Setting(data=tmp_path))
    (tmp_path / "multilingual.jsonl").write_text('{"language": "fr"}\n')
    with pytest.raises(RequestError, match=r"multilingual\.jsonl:1: expected the fields .* found no question"):
        Multilingual().run(subject, Setting(data=tmp_path))
