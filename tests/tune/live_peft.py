"""peft and transformers on our adapters, and we on theirs: the same logits; `make test-parity`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, PeftModel, get_peft_model

from transformers import AutoModelForCausalLM

from octuor import model
from octuor.batch import whole
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.peft import peft_tensors, read_adapter
from octuor.config import ModelConfig
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from octuor.ops.torch import TorchOps
from octuor.quant import F32
from octuor.tools.convert import convert
from octuor.tools.export.huggingface import write_huggingface
from octuor.tools.merge import merge
from octuor.tune.outputs import write_adapter
from octuor.tune.recipe import Method, Schedule
from octuor.tune.student import Student
from toys import random_values, relative_error

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

CONFIG = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48, vocab_size=120, n_experts=4,
    rope_theta=1e4, max_seq_len=64,
)  # fmt: skip
DENSE = replace(CONFIG, n_experts=1, n_experts_per_token=1)
TOKENS = np.arange(3, 60, 2, dtype=np.int32)
SAME = 1e-4  # of the largest logit: float32 sums in another order, over two layers
EACH = [("attention",), ("experts",), ("router",), ("attention", "experts", "router")]


def folder_of(config: ModelConfig, path: Path) -> Path:
    """A random model as a Hugging Face folder of float32."""
    values = random_values(config, [7])
    write_huggingface(path, config, values.__getitem__, F32, None)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(CONFIG, tmp_path_factory.mktemp("base") / "model")


def student_of(checkpoint: Checkpoint, method: Method) -> Student:
    """With pairs that change something: b is not zero."""
    student = Student(checkpoint, method, Schedule(), torch.float32, NativeOps(threads=1), 0)
    random = torch.Generator().manual_seed(1)
    for name, value in student.learner.masters.items():
        if name.endswith("lora_b"):
            value.copy_(torch.randn(value.shape, generator=random) * 0.05)
    student.learner.refresh()
    return student


def saved(student: Student, checkpoint: Checkpoint, path: Path) -> Path:
    pairs = student.pairs(student.learner.masters)
    return write_adapter(path, student.method, checkpoint, peft_tensors(student.config, pairs))


def logits_of(student: Student) -> NDArray[np.float32]:
    ops = TorchOps()
    with torch.no_grad():
        hidden = model.forward(ops, student.weights, student.config, whole([TOKENS]))
        return ops.to_numpy(ops.linear(hidden, student.weights.lm_head))


def merged_logits(checkpoint: Checkpoint) -> NDArray[np.float32]:
    ops = ReferenceOps()
    weights = checkpoint.weights(ops.put)
    return model.logits(ops, weights, model.forward(ops, weights, checkpoint.config, whole([TOKENS])))


def their_logits(theirs: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = theirs.eval()(torch.from_numpy(TOKENS[None].astype(np.int64))).logits[0].numpy()
        return logits


@pytest.mark.parametrize("targets", EACH)
def test_peft_loads_our_adapter_and_says_the_same(base: Path, targets: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    student = student_of(checkpoint, Method(str(base), targets=targets, rank=3, alpha=5))
    ours = logits_of(student)
    folder = saved(student, checkpoint, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert relative_error(their_logits(plain), ours) > 100 * SAME  # the adapter changes something
    theirs = PeftModel.from_pretrained(plain, folder)
    assert relative_error(their_logits(theirs), ours) < SAME
    assert relative_error(merged_logits(merge(checkpoint, folder)), ours) < SAME


def test_a_dense_models_adapter(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder_of(DENSE, tmp_path / "model"))
    student = student_of(checkpoint, Method("dense", targets=("attention", "experts"), rank=2, alpha=4))
    folder = saved(student, checkpoint, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32), folder
    )
    assert relative_error(their_logits(theirs), logits_of(student)) < SAME
    assert relative_error(merged_logits(merge(checkpoint, folder)), logits_of(student)) < SAME


def shaken(theirs: Any) -> Any:
    """peft's fresh adapter with b no longer zero."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=random) * 0.05)
    return theirs


KINDS: dict[str, dict[str, Any]] = {
    "fused": {
        "target_modules": ["q_proj", "o_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
    },
    "gate and up alone": {"target_modules": [], "target_parameters": ["experts.gate_up_proj"]},
    "down alone": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "names of transformers 4": {"target_modules": ["q_proj", "gate", "w1", "w2", "w3"]},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 20},
    },
    "rank-stabilized": {"target_modules": ["k_proj"], "use_rslora": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_we_merge_what_peft_writes(base: Path, kind: str, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = shaken(get_peft_model(plain, LoraConfig(r=3, lora_alpha=8, **KINDS[kind])))
    theirs.save_pretrained(tmp_path)
    merged = merge(open_checkpoint(base), tmp_path)
    assert relative_error(merged_logits(merged), their_logits(theirs)) < SAME


def test_an_adapter_of_transformers_4(base: Path, tmp_path: Path) -> None:
    """Experts apart, as peft wrote them then and still reads them."""
    random = torch.Generator().manual_seed(3)
    sizes = {"w1": (CONFIG.hidden_dim, CONFIG.dim), "w2": (CONFIG.dim, CONFIG.hidden_dim)}
    tensors: Mapping[str, torch.Tensor] = {
        f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{e}.{part}.lora_{side}.weight": torch.randn(
            (2, sizes.get(part, sizes["w1"])[1]) if side == "A" else (sizes.get(part, sizes["w1"])[0], 2),
            generator=random,
        ) * 0.1
        for layer in range(CONFIG.n_layers) for e in range(CONFIG.n_experts) for part in ("w1", "w2", "w3")
        for side in "AB"
    }  # fmt: skip
    LoraConfig(r=2, lora_alpha=6, target_modules=["w1", "w2", "w3"], inference_mode=True).save_pretrained(str(tmp_path))
    save_file(dict(tensors), tmp_path / "adapter_model.safetensors")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path)
    merged = merge(open_checkpoint(base), tmp_path)
    assert relative_error(merged_logits(merged), their_logits(theirs)) < SAME


def test_the_files_are_those_that_peft_would_write(base: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    student = student_of(checkpoint, Method(str(base), targets=EACH[-1], rank=3, alpha=6))
    ours = saved(student, checkpoint, tmp_path / "ours")
    PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), ours
    ).save_pretrained(str(tmp_path / "theirs"))  # fmt: skip
    found, again = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("ours", "theirs"))
    assert found.keys() == again.keys()
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("row", ["q4", "q8", "bf16"])
def test_a_merged_pack_is_the_merged_model_in_that_format(base: Path, row: str, tmp_path: Path) -> None:
    """Merged, then quantized: as quantizing the merged numbers does, to the last bit."""
    checkpoint = open_checkpoint(base)
    student = student_of(checkpoint, Method(str(base), targets=EACH[-1], rank=3, alpha=6))
    merged = merge(checkpoint, saved(student, checkpoint, tmp_path / "adapter"))
    whole_numbers = {name: merged.get(name).to_f32() for name in merged.names}
    write_huggingface(tmp_path / "numbers", CONFIG, whole_numbers.__getitem__, F32, None)
    found = open_checkpoint(convert(merged, tmp_path / "merged.octuor", row).path)
    expected = open_checkpoint(convert(tmp_path / "numbers", tmp_path / "numbers.octuor", row).path)
    for name in found.names:
        np.testing.assert_array_equal(found.get(name).data, expected.get(name).data, err_msg=name)


def test_what_is_read_is_what_was_learned(base: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    student = student_of(checkpoint, Method(str(base), targets=EACH[-1], rank=3, alpha=6))
    adapter = read_adapter(saved(student, checkpoint, tmp_path / "adapter"), CONFIG)
    assert adapter.base == str(base)
    masters = student.learner.masters
    for e in range(CONFIG.n_experts):
        pair = masters[f"layers.1.experts.{e}.gate_up.lora_b"].numpy()
        np.testing.assert_array_equal(adapter.changes[f"layers.1.experts.{e}.up"].b, pair[CONFIG.hidden_dim :])
    assert {change.scale for change in adapter.changes.values()} == {2.0}
