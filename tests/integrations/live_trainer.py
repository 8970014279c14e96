"""The PyTorch module under Trainer and peft, beside transformers' own model. Run with `make test-parity`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, get_peft_model

import octuor
from integrations.settings import be_quiet, write_tiny
from octuor.errors import RequestError
from octuor.integrations.transformers import MixtralForTraining
from octuor.quant import F32
from octuor.tools.export.huggingface import write_huggingface
from tiny_models import TINY, random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

F32_SUMS = 1e-5  # float32 sums in another order, of the largest number
NONE = -100


@pytest.fixture(scope="module", autouse=True)
def _quiet(one_thread: None) -> None:  # noqa: ARG001
    be_quiet()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def ours(folder: Path) -> MixtralForTraining:
    return MixtralForTraining.from_pretrained(folder)


@pytest.fixture
def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def some_rows(n: int) -> list[dict[str, list[int]]]:
    """Random texts of 5 to 19 tokens; the loss counts all but the first two."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for length in torch.randint(5, 20, (n,), generator=draw).tolist():
        ids = torch.randint(3, TINY.vocab_size, (length,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [NONE, NONE, *ids[2:]]})
    return rows


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows as a batch, padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in values])

    return {
        "input_ids": padded([row["input_ids"] for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], NONE),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
    }


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=F32_SUMS * float(expected.abs().max()))


def gate_and_up_gradients(model: Any, layer: int, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one expert: transformers holds them in one matrix, gate's above up's."""
    gate = model.get_submodule(f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1").weight
    up = model.get_submodule(f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w3").weight
    return gate.grad, up.grad


# The numbers


def test_loss_logits_and_gradients_are_transformers(ours: MixtralForTraining, theirs: Any) -> None:
    batch = collate(some_rows(4))
    found, expected = ours.eval()(**batch), theirs.eval()(**batch)
    same(found.loss, expected.loss)
    is_token = batch["attention_mask"] == 1
    same(found.logits[is_token], expected.logits[is_token])
    assert not found.logits[~is_token].any()
    in_training = ours.train()(**batch)
    assert in_training.logits is None  # they would be the largest array of all
    same(in_training.loss, expected.loss)
    in_training.loss.backward()
    expected.loss.backward()
    layer = theirs.model.layers[1]
    same(ours.get_submodule("model.layers.1.self_attn.k_proj").weight.grad, layer.self_attn.k_proj.weight.grad)
    same(torch.cat(gate_and_up_gradients(ours, 1, 2)), layer.mlp.experts.gate_up_proj.grad[2])
    grown = dict(ours.named_parameters())
    for name, other in (("model.embed_tokens", theirs.model.embed_tokens), ("lm_head", theirs.lm_head)):
        same(torch.as_tensor(grown[f"{name}.weight"].grad), other.weight.grad)


def test_a_dense_model(tmp_path: Path) -> None:
    dense = random_checkpoint(replace(TINY, n_experts=1, n_experts_per_token=1))
    write_huggingface(tmp_path, dense.config, lambda name: dense.get(name).to_f32(), F32, None)
    batch = collate(some_rows(3))
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    same(MixtralForTraining.from_pretrained(tmp_path)(**batch).loss, theirs(**batch).loss)


def test_bfloat16(folder: Path, ours: MixtralForTraining) -> None:
    batch = collate(some_rows(3))
    halves = MixtralForTraining.from_pretrained(folder, dtype=torch.bfloat16)
    loss = halves(**batch).loss
    assert float(loss) == pytest.approx(float(ours(**batch).loss), rel=1e-2)
    loss.backward()
    for name, parameter in halves.named_parameters():
        if parameter.grad is not None:  # an expert that no token chose has none
            assert parameter.grad.dtype == torch.bfloat16, name
            assert bool(parameter.grad.isfinite().all()), name


def test_keeping_less_for_the_way_back_changes_nothing(ours: MixtralForTraining) -> None:
    batch, found = collate(some_rows(3)), []
    for checkpointing in (False, True):
        if checkpointing:
            ours.gradient_checkpointing_enable()
        ours.zero_grad()
        ours.train()(**batch).loss.backward()
        found.append([parameter.grad.clone() for parameter in ours.parameters() if parameter.grad is not None])
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def test_the_side_of_padding_does_not_matter(ours: MixtralForTraining) -> None:
    """A padding token before a text's first is no context to learn from."""
    batch = collate(some_rows(3))
    rolled = {name: value.clone() for name, value in batch.items()}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for value in rolled.values():
            value[row] = value[row].roll(value.shape[1] - length)
    same(ours(**rolled).loss, ours(**batch).loss)


def test_texts_packed_in_one_row_are_apart(ours: MixtralForTraining) -> None:
    rows = some_rows(3)
    packed = {name: torch.tensor([[id for row in rows for id in row[name]]]) for name in ("input_ids", "labels")}
    places = torch.tensor([[place for row in rows for place in range(len(row["input_ids"]))]])
    same(ours(**packed, position_ids=places).loss, ours(**collate(rows)).loss)
    assert abs(float(ours(**packed).loss - ours(**collate(rows)).loss)) > F32_SUMS


def test_the_balance_is_of_each_layer(folder: Path, ours: MixtralForTraining) -> None:
    """Of a model with one layer it is transformers'; theirs pools the layers of a deeper one, ours is their mean."""
    batch = collate(some_rows(4))
    plain = float(ours(**batch).loss)
    found = ours(**batch, output_router_logits=True)
    assert found.aux_loss is not None
    weight = ours.config.router_aux_loss_coef
    assert float(found.loss) == pytest.approx(plain + weight * float(found.aux_loss), rel=F32_SUMS)
    shallow = random_checkpoint(replace(TINY, n_layers=1))
    path = folder.parent / "shallow"
    write_huggingface(path, shallow.config, lambda name: shallow.get(name).to_f32(), F32, None)
    one, other = (
        model.from_pretrained(path)(**batch, output_router_logits=True)
        for model in (MixtralForTraining, transformers.AutoModelForCausalLM)
    )
    same(one.aux_loss, other.aux_loss)


# Trainer


def trainer_of(model: Any, out: Path, **options: Any) -> transformers.Trainer:
    arguments = transformers.TrainingArguments(
        str(out), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=6, learning_rate=1e-2,
        logging_steps=1, save_steps=3, report_to=[], use_cpu=True, disable_tqdm=True, seed=1, **options,
    )  # fmt: skip
    rows: Any = some_rows(24)
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:5], data_collator=collate
    )


def losses(trainer: transformers.Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_trainer_takes_the_same_steps(ours: MixtralForTraining, theirs: Any, folder: Path, tmp_path: Path) -> None:
    mine, other = trainer_of(ours, tmp_path / "ours"), trainer_of(theirs, tmp_path / "theirs")
    mine.train()
    other.train()
    assert losses(mine) == pytest.approx(losses(other), rel=1e-4)
    assert losses(mine)[-1] < losses(mine)[0] - 0.5
    assert mine.evaluate()["eval_loss"] == pytest.approx(other.evaluate()["eval_loss"], rel=1e-4)
    resumed = trainer_of(MixtralForTraining.from_pretrained(folder), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-3"))
    assert losses(resumed) == losses(mine)


def test_what_is_saved_runs_everywhere(ours: MixtralForTraining, tmp_path: Path) -> None:
    trainer_of(ours, tmp_path / "run").train()
    ours.save_pretrained(tmp_path / "learned")
    ids = some_rows(1)[0]["input_ids"]
    batch = {"input_ids": torch.tensor([ids])}
    with torch.no_grad():
        expected = ours.eval()(**batch).logits[0]
        other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "learned")
        same(other(**batch).logits[0], expected)
    model = octuor.load(tmp_path / "learned", cache_dtype="f32")
    same(torch.from_numpy(np.asarray(model.logits(ids))), expected)
    assert model.tokenizer.encode("Hello")


# peft


def test_peft_puts_adapters_on_attention_experts_and_router(ours: MixtralForTraining, tmp_path: Path) -> None:
    adapted = get_peft_model(
        ours, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "w1", "w2", "gate"])
    )
    trainer = trainer_of(adapted, tmp_path / "run")
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    adapted.save_pretrained(str(tmp_path / "adapter"))
    ids = some_rows(1)[0]["input_ids"]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=torch.tensor([ids])).logits[0]
        merged: Any = adapted.merge_and_unload().eval()
        same(merged(input_ids=torch.tensor([ids])).logits[0], expected)
    merged.save_pretrained(tmp_path / "merged")
    model = octuor.load(tmp_path / "merged", cache_dtype="f32")
    same(torch.from_numpy(np.asarray(model.logits(ids))), expected)


def test_an_adapter_of_peft_runs_beside_its_base(ours: MixtralForTraining, folder: Path, tmp_path: Path) -> None:
    adapted = get_peft_model(ours, LoraConfig(r=4, target_modules=["v_proj", "w3"], init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path))
    ids = some_rows(1)[0]["input_ids"]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=torch.tensor([ids])).logits[0]
    model = octuor.load(folder, adapter=tmp_path, cache_dtype="f32")
    same(torch.from_numpy(np.asarray(model.logits(ids))), expected)


def test_a_head_with_an_adapter_learns(ours: MixtralForTraining) -> None:
    batch = collate(some_rows(2))
    plain = float(ours.train()(**batch).loss)
    adapted = get_peft_model(ours, LoraConfig(r=2, target_modules=["lm_head"]))
    loss = adapted.train()(**batch).loss
    assert float(loss) == pytest.approx(plain, rel=1e-5)  # b is zero yet
    loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in adapted.parameters())


# What it cannot do


def test_what_it_cannot_do_is_said(ours: MixtralForTraining) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(RequestError, match="expected ids and labels, found inputs_embeds"):
        ours(input_ids=ids, inputs_embeds=torch.zeros(1, 3, TINY.dim))
    with pytest.raises(RequestError, match="32000"):
        ours(input_ids=torch.tensor([[5, 32000]]))
    adapted = get_peft_model(ours, LoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(RequestError, match=r"embed_tokens: expected an adapter on matrices only"):
        adapted(input_ids=ids)
