"""Adapters at run time: each answer is that of the merged model, alone and among others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapter_files import merged, random_adapter
from engine.conftest import Stage
from experts.conftest import StreamedToy
from octuor.api import Model, load
from octuor.batch import step
from octuor.cache import KVCache
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.peft import read_adapter
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, OctuorError, RequestError
from octuor.model import forward
from octuor.ops.adapted import AdaptedOps, Stack
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from octuor.sampling import SamplingParams
from octuor.tools.convert import convert
from tiny_models import TINY, checkpoint_of, random_checkpoint
from toys import random_values, relative_error

DENSE = replace(TINY, n_experts=1, n_experts_per_token=1)
PARAMS = SamplingParams(temperature=0, max_tokens=12, min_tokens=12)
IDS = [1, 500, 600, 700, 800, 900, 31, 32, 33]


def open_tiny(config: ModelConfig = TINY) -> Model:
    return Model(random_checkpoint(config), NativeOps(threads=2), context=None, cache_dtype="f32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight adapters of one model; they change different parts."""
    root = tmp_path_factory.mktemp("adapters")
    targets = [("attention",), ("experts",), ("router",), ("attention", "experts", "router")]
    return [random_adapter(root / f"a{n}", TINY, n, rank=n + 1, targets=targets[n % 4]) for n in range(8)]


@pytest.fixture
def tiny(folders: list[Path]) -> Model:
    model = open_tiny()
    for folder in folders:
        model.adapters.load(folder)
    return model


def answer_of(stage: Stage, ids: list[int], adapter: str | None) -> list[int]:
    return stage.answer(ids, PARAMS, adapter=adapter).ids()


@pytest.mark.parametrize("config", [TINY, DENSE], ids=["mixture", "dense"])
@pytest.mark.parametrize("targets", [("attention",), ("experts",), ("router",), ("attention", "experts", "router")])
def test_logits_are_those_of_the_merged_model(config: ModelConfig, targets: tuple[str, ...], tmp_path: Path) -> None:
    if config.is_dense:
        targets = tuple(part for part in targets if part != "router") or ("attention",)
    folder = random_adapter(tmp_path / "one", config, 5, targets=targets)
    model = open_tiny(config)
    plain = model.logits(IDS)
    model.adapters.load(folder, "one")
    changes = {name: change.rows(0, len(change.b)) for name, change in read_adapter(folder, config).changes.items()}
    whole = checkpoint_of(config, merged(random_values(config, [0]), changes))
    expected = Model(whole, ReferenceOps(), context=None, cache_dtype="f32").logits(IDS)
    assert relative_error(model.logits(IDS, adapter="one"), expected) < 2e-6
    assert relative_error(plain, expected) > 0.05
    assert np.array_equal(model.logits(IDS), plain)


def test_eight_at_once_answer_as_each_alone(tiny: Model) -> None:
    names = [None, *tiny.adapters.names]
    alone = [answer_of(Stage(tiny), IDS, name) for name in names]
    assert len({tuple(ids) for ids in alone}) == len(names)
    stage = Stage(tiny)
    heard = [stage.ask(IDS, PARAMS, adapter=name) for name in names * 2]
    stage.finish()
    assert [each.ids() for each in heard] == alone * 2
    for name, ids in zip(names, alone, strict=True):
        assert [token.id for token in tiny.generate(IDS, PARAMS, adapter=name)] == ids


def test_known_beginnings_are_not_shared_between_adapters(tiny: Model) -> None:
    stage, prompt = Stage(tiny), [1, *range(300, 400)]
    for name in (None, "a0", "a1"):
        first = stage.answer(prompt, PARAMS, adapter=name)
        again = stage.answer(prompt, PARAMS, adapter=name)
        assert first.prefilled.cached_tokens == 0
        assert again.prefilled.cached_tokens > 0
        assert again.ids() == first.ids()


def test_a_warm_context_is_not_shared_either(tiny: Model) -> None:
    prompt = [1, *range(300, 340)]
    for name in (None, "a0", None, "a0"):
        found = [token.id for token in tiny.generate(prompt, PARAMS, adapter=name)]
        assert found == answer_of(Stage(open_with(tiny, name), cache_dtype="f32"), prompt, name)


def open_with(model: Model, name: str | None) -> Model:
    """A fresh model with one adapter of another."""
    fresh = open_tiny()
    if name is not None:
        fresh.adapters.load(model.adapters.acquire(name).path)
    return fresh


def test_an_adapter_that_is_unloaded_stays_for_whoever_has_it(tiny: Model) -> None:
    expected = answer_of(Stage(tiny), IDS, "a3")
    stage = Stage(tiny)
    heard = stage.ask(IDS, PARAMS, adapter="a3")
    stage.engine.step()
    tiny.adapters.unload("a3")
    with pytest.raises(RequestError, match="a3"):
        stage.ask(IDS, PARAMS, adapter="a3")
    other = stage.ask(IDS, PARAMS, adapter="a1")
    stage.finish()
    assert heard.ids() == expected
    assert other.ids() == answer_of(Stage(tiny), IDS, "a1")
    assert "a3" not in tiny.adapters.names
    assert len(tiny.adapters._held) == 7


def test_a_name_loaded_anew_is_another_adapter(tiny: Model, folders: list[Path]) -> None:
    stage, prompt = Stage(tiny), [1, *range(300, 400)]
    first = answer_of(stage, prompt, "a0")
    tiny.adapters.unload("a0")
    tiny.adapters.load(folders[4], "a0")
    second = stage.answer(prompt, PARAMS, adapter="a0")
    assert second.prefilled.cached_tokens == 0
    assert second.ids() == answer_of(stage, prompt, "a4") != first


def test_the_models_own_choice(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tiny.octuor"
    convert(random_checkpoint(), out, "f32")
    model = load(out, adapter=folders[3])
    assert model.adapter == "a3"
    assert answer_of(Stage(model), IDS, None) == [token.id for token in model.generate(IDS, PARAMS)]
    model.adapter = None
    assert answer_of(Stage(model), IDS, "a3") != answer_of(Stage(model), IDS, None)


@pytest.mark.parametrize("n_held", [2, 7])
def test_streamed_experts_are_changed_alike(n_held: int, folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tiny.octuor"
    convert(random_checkpoint(), out, "q4")
    ops, changes = NativeOps(threads=2), read_adapter(folders[3], TINY).changes
    streamed = StreamedToy(ops, open_checkpoint(out), lambda shape: n_held * max(shape.sizes))
    hidden = []
    for weights in (load(out).weights, streamed.weights):
        cache = KVCache(TINY, ops.zeros, 64)
        adapted = AdaptedOps(ops, Stack(weights, [changes]), 0)
        hidden.append(forward(adapted, weights, TINY, step(cache, [(cache.new(), IDS)])))
    assert np.array_equal(*hidden)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "LORA"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 40), "adapter_model.safetensors"),
    ],
    ids=["no config", "not LoRA", "no tensors"],
)
def test_what_is_no_adapter_is_said(wrong: object, said: str, tmp_path: Path) -> None:
    folder = random_adapter(tmp_path / "one", TINY, 0)
    assert callable(wrong)
    wrong(folder)
    model = open_tiny()
    with pytest.raises(OctuorError, match=said):
        model.adapters.load(folder)
    assert model.adapters.names == ()


def test_another_models_adapter_is_refused(tmp_path: Path) -> None:
    folder = random_adapter(tmp_path / "one", replace(TINY, dim=64), 0)
    with pytest.raises(CheckpointError, match="another model's"):
        open_tiny().adapters.load(folder)


def test_names(tiny: Model, folders: list[Path]) -> None:
    with pytest.raises(RequestError, match="loaded already"):
        tiny.adapters.load(folders[0])
    with pytest.raises(RequestError, match="colon"):
        tiny.adapters.load(folders[0], "a:b")
    with pytest.raises(RequestError, match="a0"):
        tiny.adapters.unload("b")
    reference = Model(random_checkpoint(), ReferenceOps(), context=None, cache_dtype="f32")
    with pytest.raises(RequestError, match="native backend"):
        reference.adapters.load(folders[0])
