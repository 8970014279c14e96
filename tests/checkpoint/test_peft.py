"""peft's names and layouts by hand, and the line that each adapter gets that is none of this model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from octuor.checkpoint.peft import is_adapter, module_names, peft_tensors, read_adapter, sites
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError, OctuorError
from octuor.weights import weight_shapes

CONFIG = ModelConfig(
    dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, hidden_dim=12, vocab_size=20, n_experts=2,
    n_experts_per_token=2,
)  # fmt: skip
DENSE = replace(CONFIG, n_experts=1, n_experts_per_token=1)
EACH = ("attention", "experts", "router")
AT = "base_model.model.model.layers.0."
Pairs = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def pairs_of(config: ModelConfig, targets: tuple[str, ...] = EACH, rank: int = 3) -> Pairs:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        site.name: (draw(rank, site.shape[1]), draw(site.shape[0], rank)) for site in sites(config, targets)
    }  # fmt: skip


def write(path: Path, tensors: dict[str, NDArray[Any]], **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "a/b", **settings}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("config", [CONFIG, DENSE])
def test_what_is_written_is_read(config: ModelConfig, tmp_path: Path) -> None:
    pairs = pairs_of(config)
    adapter = read_adapter(write(tmp_path / "a", peft_tensors(config, pairs)), config)
    shapes = dict(weight_shapes(config))
    assert adapter.base == "a/b"
    assert set(adapter.changes) == {name for site in sites(config, EACH) for name in site.weights}
    for site in sites(config, EACH):
        a, b = pairs[site.name]
        whole = np.concatenate([adapter.changes[name].rows(0, shapes[name][0]) for name in site.weights])
        np.testing.assert_allclose(whole, 2 * b @ a, rtol=1e-6)


def test_fused_experts_lie_as_peft_lays_them() -> None:
    """Experts follow one another in a; in b, those of one rank are neighbours."""
    pairs = pairs_of(CONFIG, ("experts",))
    tensors = peft_tensors(CONFIG, pairs)
    assert {name: x.shape for name, x in tensors.items()} == {
        f"{AT}mlp.experts.base_layer.lora_A.weight": (6, 8), f"{AT}mlp.experts.base_layer.lora_B.weight": (24, 6),
        f"{AT}mlp.experts.lora_A.weight": (6, 12), f"{AT}mlp.experts.lora_B.weight": (8, 6),
    }  # fmt: skip
    a, b = pairs["layers.0.experts.1.down"]
    np.testing.assert_array_equal(tensors[f"{AT}mlp.experts.lora_A.weight"][3:], a)
    np.testing.assert_array_equal(tensors[f"{AT}mlp.experts.lora_B.weight"][:, [1, 3, 5]], b)


def test_sites_and_modules() -> None:
    assert [site.name for site in sites(CONFIG, ("router",))] == ["layers.0.router"]
    assert [(site.name, site.shape) for site in sites(CONFIG, ("experts",))][:2] == [
        ("layers.0.experts.0.gate_up", (24, 8)), ("layers.0.experts.0.down", (8, 12)),
    ]  # fmt: skip
    assert module_names(CONFIG, EACH) == (
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
    )
    assert module_names(DENSE, EACH)[1] == []


def test_scales(tmp_path: Path) -> None:
    tensors = peft_tensors(CONFIG, pairs_of(CONFIG, ("attention",)))
    patterns = {"alpha_pattern": {"q_proj": 30, r".*\.k_proj": 12}}
    changes = read_adapter(write(tmp_path / "a", tensors, **patterns), CONFIG).changes
    assert {name.rpartition(".")[2]: change.scale for name, change in changes.items()} == {
        "wq": 10, "wk": 4, "wv": 2, "wo": 2,
    }  # fmt: skip
    changes = read_adapter(write(tmp_path / "a", tensors, use_rslora=True), CONFIG).changes
    assert changes["layers.0.wq"].scale == pytest.approx(6 / 3**0.5)


def test_what_an_adapter_is(tmp_path: Path) -> None:
    assert is_adapter(write(tmp_path / "a", {}))
    assert not is_adapter(tmp_path)


GOOD = peft_tensors(CONFIG, pairs_of(CONFIG, ("attention",)))
Q = f"{AT}self_attn.q_proj.lora_"
X = np.ones((3, 8), np.float32)


@pytest.mark.parametrize(
    ("tensors", "settings", "line"),
    [
        (GOOD, {"peft_type": "IA3"}, "expected peft_type LORA, found 'IA3'"),
        (GOOD, {"use_dora": True}, "expected plain LoRA, found use_dora"),
        (GOOD, {"bias": "all"}, "expected plain LoRA, found bias"),
        (GOOD, {"lora_alpha": None}, "expected lora_alpha, a number, found None"),
        ({}, {}, "expected pairs of lora_A and lora_B, found none"),
        ({f"{Q}A.weight": X}, {}, f"expected {Q}B.weight beside {Q}A.weight, found none"),
        ({f"{Q}A.weight": X, f"{Q}B.weight": X}, {}, r"layers.0.wq \[8, 8\], found one of \[3, 8\]"),
        ({f"{Q}A.weight": X, f"{Q}B.weight": X.T.astype(np.int8)}, {}, "as a matrix of F32, F16, BF16, found I8"),
        ({f"{AT}mlp.experts.lora_A.weight": X, f"{AT}mlp.experts.lora_B.weight": X}, {}, "expected 2 experts' lora_A"),
        ({f"{AT}norm.lora_A.weight": X, f"{AT}norm.lora_B.weight": X}, {}, "expected changes of attention, experts"),
        ({"lm_head.lora_A.weight": X, "lm_head.lora_B.weight": X}, {}, "expected changes of a Mixtral's layers"),
        ({f"{AT}self_attn.q_proj.bias": X}, {}, "expected pairs of lora_A and lora_B, found base_model"),
        ({name.replace("layers.0", "layers.4"): x for name, x in GOOD.items()}, {}, "another model's"),
    ],
)
def test_the_line_that_each_bad_adapter_gets(
    tensors: dict[str, Any], settings: dict[str, Any], line: str, tmp_path: Path
) -> None:
    contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with pytest.raises(OctuorError, match=line) as caught:
        read_adapter(write(tmp_path / "a", contiguous, **settings), CONFIG)
    assert isinstance(caught.value, (CheckpointError, ConfigError))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an adapter's config"):
        read_adapter(tmp_path, CONFIG)
    write(tmp_path, GOOD)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        read_adapter(tmp_path, CONFIG)
