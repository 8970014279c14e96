"""Adapters in peft's files: adapter_config.json beside adapter_model.safetensors, as LoRA of Mixtral and its family.

D in, F out of a matrix, r rank, E experts. An adapter changes weights by products of low rank: W + scale * b @ a, with
a [r, D] and b [F, r]. peft names a change by the module of transformers that holds the weight:

    attention         ...self_attn.q_proj.lora_A.weight [r, D], .lora_B.weight [F, r]
    router            ...mlp.gate, or block_sparse_moe.gate
    experts, fused    ...mlp.experts.base_layer (gate and up, one a for both) and ...mlp.experts (down), as
                      transformers 5 holds them: lora_A [E * r, D] expert after expert, lora_B [F, r * E] with the
                      experts of one rank side by side
    experts, apart    ...block_sparse_moe.experts.3.w1, as transformers 4 held them; in a dense model ...mlp.gate_proj

Both kinds are read; the second is written for dense models only.
Source: peft 0.21, tuners/lora/layer.py (ParamWrapper), utils/transformers_weight_conversion.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.huggingface import FORMATS
from octuor.checkpoint.safetensors_file import SafetensorsFile
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError
from octuor.weights import LowRank, weight_shapes

F32Array = NDArray[np.float32]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = ("attention", "experts", "router")
_PREFIX = "base_model.model."
_ATTENTION = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
_APART = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
_FUSED = {"mlp.experts.base_layer", "mlp.experts"}
_UNREAD = (
    "use_dora", "fan_in_fan_out", "lora_bias", "modules_to_save", "layer_replication", "use_qalora", "use_bdlora",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """What an adapter changes.

    changes  canonical name of a weight -> its change; others stay as they are
    base     the model that it was trained on, as its trainer spelled it; None where the file does not say
    """

    path: Path
    changes: Mapping[str, LowRank]
    base: str | None


@dataclass(frozen=True)
class Site:
    """Where one pair of a and b goes: a weight, or an expert's gate and up, whose rows b [2F, r] has in that order.

    name   "layers.0.wq", "layers.0.experts.3.gate_up": canonical but for the pair
    shape  (out, in) of the whole
    """

    name: str
    weights: tuple[str, ...]
    shape: tuple[int, int]


def is_adapter(path: Path) -> bool:
    """Whether a path is a folder with an adapter_config.json."""
    return path.is_dir() and (path / CONFIG).is_file()


# ---- what can be adapted -------------------------------------------------------------------------


def sites(config: ModelConfig, targets: Sequence[str]) -> Iterator[Site]:
    """The places that a new adapter has, in the model's order; targets are among TARGETS."""
    for name, shape in weight_shapes(config):
        part = name.rpartition(".")[2]
        group = "experts" if ".experts." in name else "attention" if part in _ATTENTION else part
        if group not in targets:
            continue
        if group != "experts" or config.is_dense or part == "down":
            yield Site(name, (name,), (shape[0], shape[1]))
        elif part == "gate":
            yield Site(f"{name}_up", (name, name.removesuffix("gate") + "up"), (2 * shape[0], shape[1]))


def module_names(config: ModelConfig, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """peft's target_modules and target_parameters for targets among TARGETS."""
    modules = list(_ATTENTION.values()) if "attention" in targets else []
    parameters = []
    if "experts" in targets and config.is_dense:
        modules += ["gate_proj", "up_proj", "down_proj"]
    elif "experts" in targets:
        parameters += ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    if "router" in targets and not config.is_dense:
        parameters.append("mlp.gate.weight")
    return modules, parameters


def peft_tensors(config: ModelConfig, pairs: Mapping[str, tuple[F32Array, F32Array]]) -> dict[str, F32Array]:
    """Pairs of a and b by the names of all sites of some targets, as the tensors of peft's file."""
    tensors: dict[str, F32Array] = {}

    def add(module: str, a: F32Array, b: F32Array) -> None:
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(b)

    for name, (a, b) in pairs.items():
        _, layer, part, *rest = name.split(".")
        at = f"model.layers.{layer}."
        if part in _ATTENTION:
            add(f"{at}self_attn.{_ATTENTION[part]}", a, b)
        elif part == "router":
            add(f"{at}mlp.gate", a, b)
        elif config.is_dense:
            add(f"{at}mlp.{rest[1]}_proj", a, b)
        elif rest[0] == "0":
            own = [pairs[f"layers.{layer}.experts.{e}.{rest[1]}"] for e in range(config.n_experts)]
            stacked = np.concatenate([a for a, _ in own])
            beside = np.stack([b for _, b in own], axis=-1)  # [F, r, E]
            module = "mlp.experts.base_layer" if rest[1] == "gate_up" else "mlp.experts"
            add(at + module, stacked, beside.reshape(len(beside), -1))
    return tensors


# ---- reading -------------------------------------------------------------------------------------


def read_adapter(path: Path, config: ModelConfig) -> Adapter:
    """Read an adapter's folder for a model of `config`; its numbers become float32 in memory.

    Raises CheckpointError where it is no LoRA of such a model, naming the tensor; ConfigError where its own config is
    of a kind that is not read.
    """
    settings = _read_settings(path / CONFIG)
    file = SafetensorsFile(path / TENSORS)
    shapes = dict(weight_shapes(config))
    changes: dict[str, LowRank] = {}
    for tensor in file.tensors:
        module, is_a, suffix = tensor.removeprefix(_PREFIX).partition(".lora_A")
        if not is_a:
            if ".lora_B" not in tensor:
                raise CheckpointError(f"{file.path}: expected pairs of lora_A and lora_B, found {tensor}")
            continue
        partner = tensor.removesuffix(".lora_A" + suffix) + ".lora_B" + suffix
        if partner not in file.tensors:
            raise CheckpointError(f"{file.path}: expected {partner} beside {tensor}, found none")
        a, b = _values(file, tensor), _values(file, partner)
        for name, change in _changes(module, a, b, config, settings, tensor):
            expected = shapes.get(name)
            if expected != (found := (change.b.shape[0], change.a.shape[1])) or change.a.shape[0] != change.b.shape[1]:
                raise CheckpointError(
                    f"{file.path}: {tensor}: expected a change of {name} {list(expected or ())}, found one of "
                    f"{list(found)}; is the adapter another model's?"
                )
            changes[name] = change
    if not changes:
        raise CheckpointError(f"{file.path}: expected pairs of lora_A and lora_B, found none")
    return Adapter(path, changes, settings.base)


@dataclass(frozen=True)
class _Settings:
    """Of adapter_config.json what decides a change's scale."""

    path: Path
    base: str | None
    alpha: float
    alphas: Mapping[str, float]
    is_rank_stabilized: bool

    def scale(self, module: str, rank: int) -> float:
        """alpha / r; peft's patterns match from the end of a module's name."""
        alpha = next(
            (value for pattern, value in self.alphas.items() if re.match(rf"(.*\.)?({pattern})$", module)), self.alpha
        )
        return alpha / (sqrt(rank) if self.is_rank_stabilized else rank)


def _read_settings(path: Path) -> _Settings:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: expected an adapter's config ({error.strerror}); name its folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON ({error}); fetch the adapter again") from error
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        found = data.get("peft_type") if isinstance(data, dict) else type(data).__name__
        raise ConfigError(f"{path}: expected peft_type LORA, found {found!r}; other kinds are not read")
    if used := [name for name in _UNREAD if data.get(name)] or data.get("bias", "none") != "none":
        named = ", ".join(used) if isinstance(used, list) else "bias"
        raise ConfigError(f"{path}: expected plain LoRA, found {named}; merge the adapter with peft itself")
    alpha, alphas = data.get("lora_alpha"), data.get("alpha_pattern") or {}
    if not isinstance(alpha, (int, float)) or not isinstance(alphas, dict):
        raise ConfigError(f"{path}: expected lora_alpha, a number, found {alpha!r}")
    return _Settings(path, data.get("base_model_name_or_path"), alpha, alphas, bool(data.get("use_rslora")))


def _values(file: SafetensorsFile, tensor: str) -> F32Array:
    entry = file.tensors[tensor]
    if entry.dtype not in FORMATS or len(entry.shape) != 2:
        raise CheckpointError(
            f"{file.path}: expected {tensor} as a matrix of {', '.join(FORMATS)}, found {entry.dtype} "
            f"{list(entry.shape)}"
        )
    return np.array(FORMATS[entry.dtype].to_f32(file.get(tensor), {}, entry.shape), dtype=np.float32)


def _changes(
    module: str, a: F32Array, b: F32Array, config: ModelConfig, settings: _Settings, tensor: str
) -> Iterator[tuple[str, LowRank]]:
    """Canonical names and changes of one pair of peft's tensors."""
    found = re.fullmatch(r"(?:model\.)?layers\.(\d+)\.(.+)", module)
    if found is None:
        raise CheckpointError(f"{settings.path.parent}: expected changes of a Mixtral's layers, found {tensor}")
    layer, rest = f"layers.{int(found[1])}.", found[2]
    of_attention = {f"self_attn.{theirs}": ours for ours, theirs in _ATTENTION.items()}
    if rest in _FUSED:
        yield from _fused(layer, a, b, config, settings, module)
        return
    if rest in of_attention:
        name = layer + of_attention[rest]
    elif rest in ("mlp.gate", "block_sparse_moe.gate"):
        name = layer + "router"
    else:
        expert = re.fullmatch(r"(?:(?:mlp|block_sparse_moe)\.experts\.(\d+)|mlp)\.(\w+)", rest)
        if expert is None or expert[2] not in _APART:
            raise CheckpointError(
                f"{settings.path.parent}: expected changes of attention, experts or router, found {tensor}"
            )
        name = f"{layer}experts.{int(expert[1] or 0)}.{_APART[expert[2]]}"
    yield name, LowRank(a, b, settings.scale(module, len(a)))


def _fused(
    layer: str, a: F32Array, b: F32Array, config: ModelConfig, settings: _Settings, module: str
) -> Iterator[tuple[str, LowRank]]:
    """Changes of all experts of a layer; which of the two fused weights it is, their shapes tell."""
    e, d, f = config.n_experts, config.dim, config.hidden_dim
    rank, beyond = divmod(len(a), e)
    sizes = (len(b), a.shape[1])
    if beyond or b.shape[1] != len(a) or sizes not in ((2 * f, d), (d, f)):
        raise CheckpointError(
            f"{settings.path.parent}: {module}: expected {e} experts' lora_A [{e} r, {d} or {f}] and lora_B, found "
            f"{list(a.shape)} and {list(b.shape)}; is the adapter another model's?"
        )
    is_down = sizes == (d, f)
    parameter = module.removesuffix(".base_layer") + (".down_proj" if is_down else ".gate_up_proj")
    scale = settings.scale(parameter, rank)
    own_b = b.reshape(len(b), rank, e)
    for expert in range(e):
        own_a, at = a[expert * rank : (expert + 1) * rank], f"{layer}experts.{expert}."
        ours = np.ascontiguousarray(own_b[:, :, expert])
        if is_down:
            yield at + "down", LowRank(own_a, ours, scale)
        else:
            yield at + "gate", LowRank(own_a, ours[:f], scale)
            yield at + "up", LowRank(own_a, ours[f:], scale)
