"""lm-evaluation-harness over our engine beside its own Hugging Face backend, one checkpoint, document by document."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import octuor
from octuor.api import POCKET
from octuor.checkpoint import open_checkpoint
from octuor.errors import RequestError
from octuor.evaluate.harness import import_harness, own_configs, read_config, run_harness
from octuor.evaluate.harness_model import HarnessModel
from octuor.evaluate.setting import Setting
from octuor.evaluate.subject import Subject
from octuor.tokenizer import encode_chat
from octuor.tools.export.registry import export

CLOSE = 1e-5  # relative: float32 sums in another order, over up to some hundred tokens

ANIMALS = ("dog", "cat", "horse", "little bird", "old grey elephant")
QUESTIONS = [
    {"question": f"What did the {animal} do when it saw the house?", "choices": [f"It ran to the {place}.", "It slept.",
     "Nothing at all, for it had seen many houses before.", "The sea."], "answer": n % 4}
    for n, (animal, place) in enumerate((a, p) for a in ANIMALS for p in ("garden", "big red door"))
]  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "choice.jsonl": QUESTIONS,
    "mmlu_test.jsonl": [{**row, "subject": "some_animals"} for row in QUESTIONS],
    "mmlu_dev.jsonl": [{**row, "subject": "some_animals"} for row in QUESTIONS[:3]],
    "blimp.jsonl": [
        {"sentence_good": f"The {a} runs home.", "sentence_bad": f"The {a} run home.", "more": 1} for a in ANIMALS
    ],
    "text.jsonl": [{"text": f"Once there was a {a}.\n\n" + "It lived in a wood and was not afraid. " * n}
                   for n, a in zip((1, 20, 150, 3, 0), ANIMALS, strict=True)],  # one longer than the context
    "translation.jsonl": [
        {"from": "German", "to": "English", "source": f"{a} schläft.", "target": f"The {a} sleeps."} for a in ANIMALS
    ],
    "summary.jsonl": [{"document": f"A {a} went out. It came home.", "summary": f"A {a} was out."} for a in ANIMALS],
    "gsm8k_test.jsonl": [
        {"question": f"I have {n} dogs and get 2 more. How many?", "answer": f"#### {n + 2}"} for n in range(4)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model in float32 as a Hugging Face folder, and a data folder beside it."""
    path = tmp_path_factory.mktemp("harness")
    export(open_checkpoint(POCKET), path / "model", "huggingface", "f32")
    (path / "data").mkdir()
    for name, rows in ROWS.items():
        (path / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[HarnessModel]:
    import_harness()
    with Subject(octuor.load(folder / "model"), cache_dtype="f32") as subject:
        yield HarnessModel(subject)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    import_harness()
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=4)


def ask(model: Any, task: str, folder: Path, **options: Any) -> Any:
    """The harness's own samples and figures of one task."""
    harness = import_harness()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = harness.evaluator.simple_evaluate(
            model=model, tasks=[read_config(own_configs()[task], Setting(data=folder / "data"), folder)],
            bootstrap_iters=0, task_manager=harness.tasks.TaskManager(include_defaults=False), **options,
        )  # fmt: skip
    return raw["samples"][task], raw["results"][task]


SHORT = {"gen_kwargs": "max_gen_toks=24"}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("choice_local", {}), ("mmlu_local", {}), ("blimp_local", {}), ("text_local", {}), ("translation_local", SHORT),
        ("summary_local", SHORT), ("gsm8k_local", SHORT),
        ("translation_local", {"apply_chat_template": True, **SHORT}),
    ],
)  # fmt: skip
def test_every_document_comes_out_the_same(
    folder: Path, ours: HarnessModel, theirs: Any, task: str, options: dict[str, Any]
) -> None:
    found, figures = ask(ours, task, folder, **options)
    expected, their_figures = ask(theirs, task, folder, **options)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a["doc_id"] == b["doc_id"]
        for [x], [y] in zip(a["resps"], b["resps"], strict=True):
            if isinstance(x, str):
                assert x == y
            elif isinstance(x, tuple):
                assert x[0] == pytest.approx(y[0], rel=CLOSE)
                assert x[1] == y[1]
            else:
                assert x == pytest.approx(y, rel=CLOSE)
    numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
    assert numbers == pytest.approx({key: their_figures[key] for key in numbers}, rel=CLOSE)


TEXTS = ("Hello", " leading blank", "two  blanks, one at its end ", "\n\n", "Grüße, là-bas: naïve", "日本 🙂", "a\tb")


@pytest.mark.parametrize("context", TEXTS)
@pytest.mark.parametrize("continuation", [" yes", "yes", " ", "\nno", "é", " two words."])
def test_texts_become_the_same_ids(ours: HarnessModel, theirs: Any, context: str, continuation: str) -> None:
    assert ours.tok_encode(context) == theirs.tok_encode(context)
    assert ours.tok_encode("<s>" + context) == theirs.tok_encode("<s>" + context)
    assert ours._encode_pair(context, continuation) == theirs._encode_pair(context, continuation)


def test_chats_become_the_same_ids(ours: HarnessModel, theirs: Any) -> None:
    talk = [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": "Bye"},
    ]  # fmt: skip
    mine, its = ours.apply_chat_template(talk), theirs.apply_chat_template(talk)
    assert ours.tok_encode(mine) == theirs.tok_encode(its)
    assert ours._encode_pair(mine, " See you.") == theirs._encode_pair(its, " See you.")


def test_an_answer_in_a_chat_begins_as_it_was_trained(ours: HarnessModel) -> None:
    """The harness joins a choice to a chat without a blank; the Hugging Face backend then scores "[/INST]Yes"."""
    talk = [{"role": "user", "content": "Hi"}]
    given = ours.apply_chat_template(talk)
    tokenizer = octuor.load(POCKET).tokenizer
    whole = encode_chat(tokenizer, [*talk, {"role": "assistant", "content": "Yes, I can.", "prefix": True}])
    context = encode_chat(tokenizer, talk)
    for text in ("Yes, I can.", " Yes, I can."):
        assert ours._encode_pair(given, text) == (context, whole[len(context) :])
    prefixed = ours.apply_chat_template([*talk, {"role": "assistant", "content": "Yes,"}], add_generation_prompt=False)
    assert ours.tok_encode(prefixed + " I can.") == whole


def test_a_task_of_the_harness_becomes_ours(folder: Path, ours: HarnessModel) -> None:
    with Subject(octuor.load(folder / "model")) as subject:
        (result,) = run_harness(subject, ["choice_local"], Setting(data=folder / "data", limit=4))
        (text,) = run_harness(subject, ["text_local"], Setting(data=folder / "data", limit=3))
    _, figures = ask(ours, "choice_local", folder, limit=4)
    assert result.metric("acc").value == figures["acc,none"]
    assert [document.id for document in result.documents] == ["0", "1", "2", "3"]
    assert "What did the dog do" in result.examples[0].prompt
    assert text.metric("word_perplexity").form == "exp"
    assert text.metric("bits_per_byte").form == "mean"


PART = """
task: part_{n}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GROUP = "group: both\ntask: [part_0, part_1]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"


def test_a_folder_of_task_files_and_a_group(folder: Path) -> None:
    tasks = folder / "tasks"
    tasks.mkdir()
    for n in range(2):
        (tasks / f"part_{n}.yaml").write_text(PART.format(n=n, file=folder / "data" / "choice.jsonl"))
    (tasks / "both.yaml").write_text(GROUP)
    with Subject(octuor.load(folder / "model")) as subject:
        first, second, both = run_harness(subject, ["both"], Setting(tasks_dir=tasks, limit=6))
        assert subject.n_scored == 48
    assert (first.task, second.task, both.task) == ("part_0", "part_1", "both")
    assert both.metric("acc").value == pytest.approx((first.metric("acc").value + second.metric("acc").value) / 2)
    assert first.metric("acc").how == "Wilson"


def test_figures_of_a_whole_have_the_harness_s_errors(folder: Path) -> None:
    with Subject(octuor.load(folder / "model")) as subject:
        [result] = run_harness(subject, ["translation_local"], Setting(data=folder / "data", limit=3))
    chrf = result.metric("chrf")
    assert (chrf.form, chrf.how) == ("given", "standard error")
    assert chrf.low is not None
    assert chrf.low <= chrf.value


def test_data_that_is_not_there_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks = folder / "missing"
    tasks.mkdir()
    (tasks / "part_0.yaml").write_text(PART.format(n=0, file=folder / "none.jsonl"))
    with Subject(octuor.load(folder / "model")) as subject, pytest.raises(RequestError, match="expected data"):
        run_harness(subject, ["part_0"], Setting(tasks_dir=tasks))
    with Subject(octuor.load(folder / "model")) as subject, pytest.raises(RequestError, match="--list"):
        run_harness(subject, ["no such task"], Setting(tasks_dir=tasks))
