"""Whole runs on a made-up corpus: they learn, go on after a kill as if it had not been, and leave a model to use."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceTrainer
from transformers import AutoModelForCausalLM

from command_line import octuor
from octuor.api import load
from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError
from octuor.sampling import SamplingParams
from octuor.tokenizer import Tokenizer, open_tokenizer
from octuor.train.data import encode_document
from octuor.train.export import export
from octuor.train.loop import StepMetrics, read_metrics, train
from octuor.train.metrics import MetricsFile
from octuor.train.recipe import OPTIMIZERS, Export, Recipe, Schedule, Stage, read_recipe
from octuor.train.state import TrainState

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48, vocab_size=400, n_experts=4,
    rope_theta=1e4, max_seq_len=64,
)  # fmt: skip
TALKS = [
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning, my friend."}],
    [{"role": "user", "content": "Who sings?"}, {"role": "assistant", "content": "The old bird sings in the tree."}],
]
STORY = "The old bird sings in the tree. The tree is old and the morning is good."
SAME_NUMBERS = 1e-4  # the same bfloat16 weights in float32 arithmetic of another order; of the largest logit
Q8_HEAD = 2e-2  # the last product in 8 bits: inputs and weights rounded to 1/127 of their blocks' largest


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of Mixtral's kind with 400 pieces: most of a step would go into 32,000."""
    path = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter([STORY, *(message["content"] for talk in TALKS for message in talk)]),
            model_writer=file, model_type="bpe", vocab_size=MODEL.vocab_size, hard_vocab_limit=False,
            byte_fallback=True, minloglevel=2,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return open_tokenizer(tokenizer_file)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = "".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS)
    (folder / "talks.jsonl").write_text(rows, encoding="utf-8")
    (folder / "stories.jsonl").write_text(json.dumps({"text": STORY}) + "\n", encoding="utf-8")
    return folder


def recipe_of(
    steps: int, *, save_every: int = 1000, dtype: str = "f32", optimizer: str = "adamw", sampled_words: int = 0
) -> Recipe:
    schedule = Schedule(
        steps=steps, seq_len=63, sequences_per_step=2, learning_rate=1e-2, warmup_steps=4, save_every=save_every,
        loss_chunk=40, dtype=dtype, optimizer=optimizer, sampled_words=sampled_words,
    )  # fmt: skip
    stages = (Stage(0.3, {"stories": 1, "talks": 1}), Stage(1.0, {"talks": 1}))
    return Recipe(MODEL, schedule, stages, Export("bf16", {"lm_head": "q8"}))


def answer_entropy(tokenizer: Tokenizer) -> float:
    """Mean nats of a learned token to one who knows how often each comes and nothing else."""
    documents = [encode_document(tokenizer, {"messages": talk}) for talk in TALKS]
    counts = Counter(id for ids, learned in documents for id, counts in zip(ids, learned, strict=True) if counts)
    return -sum(n * math.log(n / counts.total()) for n in counts.values()) / counts.total()


@pytest.fixture(scope="module")
def learned(data: Path, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, Path]:
    run = tmp_path_factory.mktemp("learned")
    state = train(recipe_of(60), data, run, open_tokenizer(tokenizer_file))
    export(state, run, tokenizer_file)
    return state, run


# Learning


def test_it_learns_its_corpus_by_heart(learned: tuple[TrainState, Path], tokenizer: Tokenizer) -> None:
    metrics = read_metrics(learned[1] / "metrics.jsonl")
    assert [row.step for row in metrics] == list(range(1, 61))
    assert [row.tokens for row in metrics] == [126 * step for step in range(1, 61)]
    assert metrics[0].loss == pytest.approx(math.log(MODEL.vocab_size), rel=0.02)  # it begins with no opinion
    # what comes next depends on what came before: only a model that looks at that gets far below the entropy
    assert np.mean([row.loss for row in metrics[-5:]]) < answer_entropy(tokenizer) / 4
    assert all(row.balance + 1e-3 >= 1 and 0 <= row.least_load <= 1 / 4 for row in metrics)
    assert max(row.learning_rate for row in metrics) == 1e-2


def test_bfloat16_learns_too(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(recipe_of(40, dtype="bf16"), data, tmp_path, tokenizer)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert np.mean([row.loss for row in metrics[-5:]]) < answer_entropy(tokenizer) / 2


def test_muon_moves_matrices_inside_the_blocks_by_steps_of_one_size(
    data: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whatever their gradients: singular values of a step lie around the rate times 0.2 sqrt(longer side)."""
    recipe = recipe_of(1, optimizer="muon")
    recipe = replace(recipe, schedule=replace(recipe.schedule, warmup_steps=0, weight_decay=0.0))
    before = TrainState(recipe).masters
    after = train(recipe, data, tmp_path, tokenizer).masters
    for name, value in after.items():
        step = value - before[name]
        if name.rpartition(".")[2] in ("wq", "wk", "wv", "wo", "gate", "up", "down"):
            sizes = torch.linalg.svdvals(step) / (1e-2 * 0.2 * max(step.shape) ** 0.5)
            assert 0.3 < float(sizes[len(sizes) // 4]) < 1.4, name
            assert float(sizes[0]) < 1.4, name
        else:  # AdamW's first step moves each number by the rate
            assert float(step.abs().max()) == pytest.approx(1e-2, rel=0.02), name


def test_a_softmax_over_some_words_learns_as_well(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(recipe_of(40, sampled_words=60), data, tmp_path, tokenizer)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics[0].loss == pytest.approx(math.log(MODEL.vocab_size), rel=0.02)  # though few of the words are met
    assert np.mean([row.loss for row in metrics[-5:]]) < answer_entropy(tokenizer) / 2


def test_a_run_may_begin_with_a_models_weights(
    learned: tuple[TrainState, Path], data: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    begun = replace(recipe_of(3), start=str(learned[1] / "huggingface"))
    before = TrainState(begun).masters
    assert all(torch.equal(before[name], master.bfloat16().float()) for name, master in learned[0].masters.items())
    train(begun, data, tmp_path, tokenizer)
    assert read_metrics(tmp_path / "metrics.jsonl")[0].loss < answer_entropy(tokenizer)  # fresh: ln 400
    wider = replace(begun, model=replace(MODEL, hidden_dim=64))
    with pytest.raises(ConfigError, match="start: expected a model with hidden_dim 64, found 48 in"):
        train(wider, data, tmp_path / "wider", tokenizer)


def test_a_dense_model_trains(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    recipe = replace(recipe_of(2), model=replace(MODEL, n_experts=1, n_experts_per_token=1))
    train(recipe, data, tmp_path, tokenizer)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert second.loss < first.loss
    assert (first.balance, first.least_load) == (1.0, 1.0)


# Stopping and going on


class Killed(Exception):
    """What stands for a kill."""


def kill_at(step: int) -> Callable[[StepMetrics], None]:
    def on_step(metrics: StepMetrics) -> None:
        if metrics.step == step:
            raise Killed

    return on_step


def same_but_speed(path: Path) -> list[StepMetrics]:
    return [replace(row, tokens_per_s=0.0) for row in read_metrics(path / "metrics.jsonl")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    data: Path, tokenizer: Tokenizer, tmp_path: Path, optimizer: str
) -> None:
    """Killed twice: before anything was saved, and between two saves with half a line of metrics written."""
    recipe = recipe_of(12, save_every=5, optimizer=optimizer)
    whole = train(recipe, data, tmp_path / "whole", tokenizer)
    broken = tmp_path / "broken"
    for step in (3, 8):
        with pytest.raises(Killed):
            train(recipe, data, broken, tokenizer, on_step=kill_at(step))
    with (broken / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('{"step": 9, "tok')
    steps: list[int] = []
    resumed = train(recipe, data, broken, tokenizer, on_step=lambda metrics: steps.append(metrics.step))
    assert steps == list(range(6, 13))
    assert same_but_speed(broken) == same_but_speed(tmp_path / "whole")
    assert all(torch.equal(value, resumed.masters[name]) for name, value in whole.masters.items())
    assert not list(broken.glob("*.partial"))


def test_a_finished_run_is_left_as_it_is(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = train(recipe_of(2), data, tmp_path, tokenizer)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def no_step(metrics: StepMetrics) -> None:
        raise AssertionError(metrics)

    again = train(recipe_of(2), data, tmp_path, tokenizer, on_step=no_step)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert all(torch.equal(value, again.masters[name]) for name, value in first.masters.items())


def test_another_recipes_run_is_not_gone_on_with(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(recipe_of(1), data, tmp_path, tokenizer)
    other = replace(recipe_of(2), model=replace(MODEL, hidden_dim=56))
    with pytest.raises(CheckpointError, match="expected a run of this recipe, found another model"):
        train(other, data, tmp_path, tokenizer)


def test_a_vocabulary_too_small_for_the_tokenizer(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    small = replace(recipe_of(1), model=replace(MODEL, vocab_size=tokenizer.n_words - 1))
    with pytest.raises(ConfigError, match=f"expected at least the tokenizer's {tokenizer.n_words}, found"):
        train(small, data, tmp_path, tokenizer)
    assert not list(tmp_path.iterdir())


def test_metrics_are_cut_back_to_the_step_resumed_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [StepMetrics(step, step * 10, 1.0, 1.0, 0.1, 1.0, 0.1, 5.0) for step in (1, 2, 3)]
    with MetricsFile(path, 0) as metrics:
        for row in rows:
            metrics.write(row)
    with MetricsFile(path, 2):
        assert read_metrics(path) == rows[:2]


# What a run leaves


def test_the_huggingface_export_is_the_same_model(learned: tuple[TrainState, Path], tokenizer: Tokenizer) -> None:
    state, run = learned
    ids = encode_document(tokenizer, {"messages": TALKS[0]})[0]
    ours = load(run / "huggingface", backend="reference", cache_dtype="f32")
    assert ours.config == MODEL
    assert ours.checkpoint.tokenizer_kind == "tokenizer.model"
    for name, value in state.masters.items():
        assert np.array_equal(ours.checkpoint.get(name).to_f32(), value.bfloat16().float().numpy())
    theirs = AutoModelForCausalLM.from_pretrained(run / "huggingface", dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    found = ours.logits(ids)
    assert np.abs(found - expected).max() < SAME_NUMBERS * np.abs(expected).max()


def test_the_pack_answers_what_it_was_taught(learned: tuple[TrainState, Path], tokenizer: Tokenizer) -> None:
    _, run = learned
    pack = load(run / "model.octuor", threads=1)
    formats = {name: pack.checkpoint.get(name).format.name for name in ("lm_head", "embed", "layers.1.wq", "norm")}
    assert formats == {"lm_head": "q8", "embed": "bf16", "layers.1.wq": "bf16", "norm": "f32"}
    ids = encode_document(tokenizer, {"messages": TALKS[0]})[0]
    expected = load(run / "huggingface", backend="reference").logits(ids)
    assert np.abs(pack.logits(ids) - expected).max() < Q8_HEAD * np.abs(expected).max()
    for talk in TALKS:
        generation = pack.chat(talk[:1], SamplingParams(temperature=0, max_tokens=20))
        assert "".join(token.text for token in generation) == talk[1]["content"]
        assert generation.finish_reason == "stop"


def test_the_command_trains_and_exports(data: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "[model]\ndim = 32\nn_layers = 1\nn_heads = 4\nn_kv_heads = 2\nhead_dim = 8\nhidden_dim = 48\n"
        "vocab_size = 400\nn_experts = 2\nmax_seq_len = 64\n"
        "[schedule]\nsteps = 4\nseq_len = 32\nsequences_per_step = 1\nlog_every = 2\nsave_every = 3\n"
        '[export]\nformat = "q4"\n'
        "[[stage]]\nuntil = 1.0\nweights = { talks = 1, stories = 2 }\n",
        encoding="utf-8",
    )
    for steps_told in (["step 2:", "step 4:"], []):
        done = octuor("train", recipe, "--data", data, "--out", tmp_path / "run", "--tokenizer", tokenizer_file)
        assert done.code == 0
        assert done.out.split() == [str(tmp_path / "run" / "huggingface"), str(tmp_path / "run" / "model.octuor")]
        assert [word for word in ("step 2:", "step 4:") if word in done.err] == steps_told
        assert "stories: " in done.err
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 4
    pack = open_checkpoint(tmp_path / "run" / "model.octuor")
    assert pack.config == read_recipe(recipe).model
    assert pack.tokenizer_kind == "tokenizer.model"


def test_the_command_names_what_is_missing(data: Path, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "pocket-first.toml"
    done = octuor("train", recipe, "--data", data, "--out", tmp_path / "run")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "octuor: training data: expected " in done.err
