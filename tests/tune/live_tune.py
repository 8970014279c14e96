"""Whole runs on a made-up corpus: they learn, prefer, stop in time, and leave what others load; `make test-parity`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import octuor
from octuor.checkpoint import open_checkpoint
from octuor.errors import CheckpointError
from octuor.tokenizer import open_tokenizer
from octuor.tools.merge import merge
from octuor.tune.data import Dataset, load_data
from octuor.tune.events import Events
from octuor.tune.forward import hidden_states, make_turn
from octuor.tune.loop import Outcome, TuneMetrics, rate_share, read_metrics, tune
from octuor.tune.loss import answers_score, preference_score
from octuor.tune.outputs import write_outputs
from octuor.tune.plan import plan_steps
from octuor.tune.recipe import Data, Method, Preference, Schedule, Sweep, TuneRecipe
from octuor.tune.score import Scorer
from octuor.tune.sweep import recommend, sweep, table
from tune.event_files import read_scalars
from tune.tiny_run import preferences, recipe_text, talks, write_model, write_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # other people's
    pytest.mark.usefixtures("one_thread"),
]
F32 = 1e-5  # sums of some hundred float32 terms of order 1 in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, talks and preferences."""
    path = tmp_path_factory.mktemp("tiny")
    write_model(path / "tiny.octuor")
    write_rows(path / "train.jsonl", talks(40))
    write_rows(path / "valid.jsonl", talks(48)[40:])
    write_rows(path / "pairs.jsonl", preferences(40))
    write_rows(path / "held.jsonl", preferences(48)[40:])
    return path


def recipe_of(folder: Path, method: Method | None = None, **schedule: Any) -> TuneRecipe:
    settings = {
        "steps": 30, "tokens_per_step": 300, "tokens_at_once": 160, "learning_rate": 1e-2, "dtype": "f32",
        "validate_every": 10, "save_every": 5, **schedule,
    }  # fmt: skip
    model = str(folder / "tiny.octuor")
    return TuneRecipe(
        replace(method or Method(targets=("attention", "experts"), rank=4), model=model),
        Data(("train.jsonl",), ("valid.jsonl",)), Schedule(**settings), folder=folder,
    )  # fmt: skip


def preferring(folder: Path, preference: Preference, **schedule: Any) -> TuneRecipe:
    recipe = recipe_of(folder, **schedule)
    return replace(recipe, data=Data(("pairs.jsonl",), ("held.jsonl",)), preference=preference)


def data_of(recipe: TuneRecipe) -> Dataset:
    checkpoint = open_checkpoint(recipe.tune.path)
    return load_data(recipe, open_tokenizer(checkpoint.tokenizer_bytes() or b""))


def run(recipe: TuneRecipe, out: Path, **options: Any) -> Outcome:
    return tune(recipe, open_checkpoint(recipe.tune.path), data_of(recipe), out, threads=1, **options)


def without_speed(out: Path) -> list[TuneMetrics]:
    return [replace(row, tokens_per_s=0.0) for row in read_metrics(out / "metrics.jsonl")]


# Learning


@pytest.mark.parametrize(
    "method",
    [Method(rank=4), Method(targets=("experts", "router"), rank=4), Method(method="full", targets=("all",))],
    ids=["attention", "experts and router", "full"],
)
def test_it_learns_and_keeps_its_best(folder: Path, method: Method, tmp_path: Path) -> None:
    recipe = recipe_of(folder, method)
    outcome = run(recipe, tmp_path)
    assert outcome.before is not None
    assert outcome.best is not None
    assert outcome.best.loss < 0.8 * outcome.before.loss
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.step for row in rows] == list(range(1, 31))
    assert outcome.best.loss == min(row.validation_loss for row in rows if row.validation_loss is not None)
    assert all((row.balance is not None) == method.learns_routing for row in rows)
    student = outcome.student
    for name, value in outcome.masters.items():
        student.learner.masters[name].copy_(value)
    student.learner.refresh()
    scorer = Scorer(student.config, recipe, torch.float32, None)
    assert scorer.validate(student.settled, data_of(recipe).validation, None).loss == outcome.best.loss


def test_turns_do_not_change_a_step(folder: Path, tmp_path: Path) -> None:
    """However a step is cut, every answer's token counts alike."""
    for name, at_once in (("whole", 10_000), ("cut", 60)):
        run(recipe_of(folder, Method(rank=4), tokens_at_once=at_once, steps=3), tmp_path / name)
    for whole, cut in zip(*(without_speed(tmp_path / name) for name in ("whole", "cut")), strict=True):
        assert cut.loss == pytest.approx(whole.loss, rel=1e-4)
        assert cut.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)


def test_bfloat16_and_checkpointing_learn_too(folder: Path, tmp_path: Path) -> None:
    outcome = run(recipe_of(folder, dtype="bf16", checkpointing=True), tmp_path)
    assert outcome.best is not None
    assert outcome.before is not None
    assert outcome.best.loss < 0.8 * outcome.before.loss


def test_it_stops_where_validation_no_longer_improves(folder: Path, tmp_path: Path) -> None:
    outcome = run(recipe_of(folder, learning_rate=10.0, validate_every=2, patience=2), tmp_path)
    assert outcome.stopped
    assert outcome.before is not None
    assert outcome.best is not None
    found = {row.step: row.validation_loss for row in read_metrics(tmp_path / "metrics.jsonl")}
    losses = {0: outcome.before.loss} | {step: loss for step, loss in found.items() if loss is not None}
    best = min(losses, key=losses.__getitem__)
    assert outcome.best.loss == losses[best]
    assert outcome.steps == max(losses) == best + 2 * 2  # two validations of every two steps after it


def test_a_run_that_gets_no_better_ends_with_the_base(folder: Path, tmp_path: Path) -> None:
    outcome = run(recipe_of(folder, learning_rate=0.0, validate_every=1, patience=1), tmp_path)
    assert (outcome.stopped, outcome.steps) == (True, 1)
    assert outcome.best == outcome.before
    assert all(not value.any() for name, value in outcome.masters.items() if name.endswith("lora_b"))


def test_the_learning_rate_by_hand() -> None:
    schedule = Schedule(warmup_share=0.2, min_lr_share=0.1)
    shares = {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.1 + 0.9 * 0.5, 10: 0.1}
    assert {step: rate_share(step, 10, schedule) for step in shares} == pytest.approx(shares)
    linear = replace(schedule, shape="linear")
    assert rate_share(4, 10, linear) == pytest.approx(0.1 + 0.9 * 0.75)
    assert rate_share(9, 10, replace(schedule, shape="constant")) == 1.0


# Preferences


def test_preferences_move_answers_apart(folder: Path, tmp_path: Path) -> None:
    outcome = run(preferring(folder, Preference(), learning_rate=3e-3), tmp_path)
    assert outcome.before is not None
    assert outcome.best is not None
    assert outcome.before.loss == pytest.approx(math.log(2), abs=F32)  # the base is where it is
    assert outcome.before.margin == pytest.approx(0, abs=F32)
    assert outcome.best.margin is not None
    assert outcome.best.margin > 0.5
    assert outcome.best.accuracy == 1.0


def test_the_base_is_asked_about_the_pairs_of_the_steps_alone(folder: Path, tmp_path: Path) -> None:
    recipe = preferring(folder, Preference(), steps=2)
    run(recipe, tmp_path)
    wanted = np.unique(np.concatenate(plan_steps(data_of(recipe).train.lengths, recipe.schedule)))
    assert 0 < len(wanted) < 40
    with np.load(tmp_path / "reference.npz") as kept:
        assert np.isfinite(kept["train"]).all(axis=1).nonzero()[0].tolist() == wanted.tolist()
        assert np.isfinite(kept["validation"]).all()


def test_the_preference_loss_by_hand() -> None:
    """log_p of two pairs' answers, the tokens of one answer spread over the turn."""
    log_p = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0]).requires_grad_()
    owners = torch.tensor([0, 1, 2, 3, 0])
    reference = torch.tensor([-5.0, -3.0, -3.0, -3.0])
    score = preference_score(log_p, owners, reference, Preference(beta=0.5))
    margins = np.array([0.5 * ((-6 + 5) - (-2 + 3)), 0.5 * ((-3 + 3) - (-4 + 3))])  # -1, 0.5
    assert float(score.loss.detach()) == pytest.approx(float(np.log1p(np.exp(-margins)).sum()))
    assert (score.n, score.n_right) == (2, 1)
    assert score.margin == pytest.approx(-0.5)
    smoothed = preference_score(log_p, owners, reference, Preference(beta=0.5, label_smoothing=0.2))
    expected = 0.8 * np.log1p(np.exp(-margins)) + 0.2 * np.log1p(np.exp(margins))
    assert float(smoothed.loss.detach()) == pytest.approx(float(expected.sum()))
    (slope,) = torch.autograd.grad(score.loss, [log_p])
    assert (slope[[0, 2, 4]] < 0).all()  # a step against it makes better answers likelier
    assert (slope[[1, 3]] > 0).all()
    assert float(answers_score(log_p).loss.detach()) == 15.0


# The load of experts


def test_the_load_is_balanced_layer_by_layer_over_real_tokens(folder: Path, tmp_path: Path) -> None:
    """The mean over layers of each layer's own loss, whatever the other rows of the turn are: nothing is padded."""
    from octuor import model
    from octuor.ops.torch import TorchOps
    from octuor.train.loss import balance_loss

    recipe = recipe_of(folder, Method(targets=("router",), rank=2), steps=1)
    outcome = run(recipe, tmp_path)
    pieces = [piece for example in data_of(recipe).train.examples[:3] for piece in example.pieces]
    turn, student = make_turn(pieces), outcome.student
    layers: list[torch.Tensor] = []
    model.forward(
        TorchOps(), student.weights, student.config, turn.batch, lambda _, routing: layers.append(balance_loss(routing))
    )
    _, found = hidden_states(
        TorchOps(), student.weights, student.config, turn.batch, turn.rows, checkpointing=True, balanced=True
    )  # fmt: skip
    assert found is not None
    assert float(found.detach()) == pytest.approx(float(torch.stack(layers).mean().detach()), rel=F32)
    assert len(turn.batch.tokens) == sum(len(piece.ids) - 1 for piece in pieces)


# Stopping and going on


class Killed(Exception):
    """What stands for a kill."""


def test_a_stopped_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    recipe = preferring(folder, Preference(), steps=12)
    whole = run(recipe, tmp_path / "whole")
    for stop in (3, 8):

        def on_step(metrics: TuneMetrics, _: int, stop: int = stop) -> None:
            if metrics.step == stop:
                raise Killed

        with pytest.raises(Killed):
            run(recipe, tmp_path / "broken", on_step=on_step)
    resumed = run(recipe, tmp_path / "broken")
    assert without_speed(tmp_path / "broken") == without_speed(tmp_path / "whole")
    assert all(torch.equal(value, resumed.masters[name]) for name, value in whole.masters.items())
    assert not list((tmp_path / "broken").glob("*.partial*"))


def test_another_recipes_run_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    run(recipe_of(folder, steps=1), tmp_path)
    with pytest.raises(CheckpointError, match="expected a run of this recipe and data, found another"):
        run(recipe_of(folder, steps=1, learning_rate=1.0), tmp_path)
    longer = replace(recipe_of(folder, steps=1), data=Data(("train.jsonl",), ("held.jsonl",)))
    write_rows(folder / "more.jsonl", talks(41))
    with pytest.raises(CheckpointError, match="found another"):
        run(replace(longer, data=Data(("more.jsonl",), ("valid.jsonl",))), tmp_path)


# What a run leaves


def test_a_full_run_leaves_a_model_and_a_pack(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, Method(method="full", targets=("attention",)), steps=2, validate_every=2)
    outcome = run(recipe, tmp_path)
    checkpoint = open_checkpoint(recipe.tune.path)
    huggingface, pack = (open_checkpoint(path) for path in write_outputs(outcome, recipe, checkpoint, tmp_path))
    for name in checkpoint.names:
        value = outcome.masters.get(name, torch.from_numpy(np.array(checkpoint.get(name).to_f32())))
        assert np.array_equal(huggingface.get(name).to_f32(), value.bfloat16().float().numpy())
    assert pack.tokenizer_bytes() == checkpoint.tokenizer_bytes()


def assert_shown(events: Path, metrics: list[TuneMetrics]) -> None:
    """What TensorBoard would draw is what the metrics say."""
    shown = read_scalars(events)
    expected = [{name: value for name, value in asdict(row).items() if value is not None} for row in metrics]
    assert set(shown) == set().union(*expected) - {"step"}
    for name, values in shown.items():
        written = {row["step"]: row[name] for row in expected if name in row}
        assert values == pytest.approx(written, rel=1e-6), name  # float32 in the file


def test_a_run_that_went_on_is_shown_once(tmp_path: Path) -> None:
    rows = [TuneMetrics(step, 10 * step, 1 / step, None, None, None, 1.0, 0.1, 5.0) for step in range(1, 6)]
    with Events(tmp_path, 0) as events:
        for row in rows[:4]:
            events.write(replace(row, loss=9.0) if row.step > 2 else row)
    with Events(tmp_path, 2) as events:  # killed after step 4, saved after step 2
        for row in rows[2:]:
            events.write(row)
    assert_shown(tmp_path, rows)


def test_the_command_learns_and_the_adapter_merges(folder: Path, tmp_path: Path) -> None:
    recipe = folder / "run.toml"
    model = folder / "tiny.octuor"
    tables = '[tune]\nmodel = "MODEL"\nrank = 4\n\n[sweep]\nlearning_rates = [1e-3, 1e-2]\nsteps = 4\n'
    recipe.write_text(recipe_text(model, tables, steps=6, tensorboard=True))
    done = octuor("tune", recipe, "--out", tmp_path / "run", "--threads", 1, "--json")
    assert done.code in (None, 0), done.err
    result = json.loads(done.out)
    assert result["steps"] == 6
    assert result["best"]["loss"] < result["before"]["loss"]
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert_shown(tmp_path / "run" / "events", metrics)
    merged = merge(open_checkpoint(model), Path(result["outputs"][0]))
    assert not np.array_equal(merged.get("layers.0.wq").to_f32(), open_checkpoint(model).get("layers.0.wq").to_f32())
    swept = octuor("tune", recipe, "--out", tmp_path / "run", "--threads", 1, "--sweep")
    assert swept.code in (None, 0), swept.err
    assert "learning_rate = 0.01" in swept.err
    assert (tmp_path / "run" / "sweep" / "sweep.png").stat().st_size > 1000


def test_a_sweep_recommends_and_says_where_to_look(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, validate_every=100)
    recipe = replace(recipe, sweep=Sweep((1e-5, 1e-2, 30.0), 5))
    trials = sweep(recipe, open_checkpoint(recipe.tune.path), data_of(recipe), tmp_path, threads=1)
    assert [len(trial.losses) for trial in trials] == [5, 5, 5]
    best, why = recommend(trials)
    assert (best.learning_rate, why) == (0.01, "lower and higher rates are worse")
    assert table(trials).splitlines()[2].endswith("← lowest")
    assert recommend(trials[:2])[1] == "the highest rate tried: try higher ones"
    assert recommend(trials[1:])[1] == "the lowest rate tried: try lower ones"
    lost = [replace(trial, validation=math.nan) for trial in trials]
    assert recommend(lost)[1] == "every run fell apart: try lower rates"
