"""GGUF files that llama.cpp loads: architecture llama, all experts of a layer in one tensor, the tokenizer inside.

Like llama.cpp's own converter: norms and router are f32, RoPE rotates neighbours in wq and wk, and a matrix whose rows
are no multiple of 32 numbers long is f16 in a q8_0 file.

Source: llama.cpp, conversion/llama.py and conversion/base.py; gguf-py, constants.py
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.gguf import PARTS, TOP
from octuor.checkpoint.mistral import neighbours_from_halves
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.machine import read_machine
from octuor.quant import BF16, F16, F32, Format
from octuor.quant.base import Array
from octuor.tools.convert import WeightStream
from octuor.tools.export import gguf_file
from octuor.tools.export.companions import chat_template
from octuor.tools.export.gguf_file import GgufTensor, TensorType, Value, write_gguf
from octuor.tools.export.gguf_vocabulary import vocabulary
from octuor.weights import weight_shapes

FORMATS = ("bf16", "f16", "f32", "q8_0")
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # llama_ftype
_QUANTIZATION_VERSION = 2
_BLOCK = 32  # of q8_0
_AT_ONCE = 8192  # blocks, so that what lies between two steps stays in a core's cache
_TYPES = {"f32": gguf_file.F32, "f16": gguf_file.F16, "bf16": gguf_file.BF16, "q8_0": gguf_file.Q8_0}
_ROWS: dict[TensorType, Format] = {gguf_file.F32: F32, gguf_file.F16: F16, gguf_file.BF16: BF16, gguf_file.Q8_0: F32}


def export_gguf(stream: WeightStream, out: Path, format_name: str, overwrite: bool) -> int:
    """Write a stream as one file; returns its bytes. As registry.Target.write."""
    config = stream.checkpoint.config
    members = tensor_members(config)
    shapes = dict(weight_shapes(config))
    tensors = {}
    for name, weights in members.items():
        shape = shapes[weights[0]]
        whole = (len(weights), *shape) if ".ffn_" in name and name.endswith("_exps.weight") else shape
        tensors[name] = GgufTensor(name, whole, tensor_type(weights[0], shape, format_name))

    def pieces(name: str) -> Iterator[Array]:
        for weight in members[name]:
            yield from _pieces(stream, weight, tensors[name].type, config)

    values = metadata(config, stream.checkpoint.source.stem, format_name)
    values |= vocabulary(stream.checkpoint, config.vocab_size)
    if (template := chat_template(stream.checkpoint)) is not None:
        values["tokenizer.chat_template"] = template
    return write_gguf(out, values, list(tensors.values()), pieces, overwrite=overwrite)


def tensor_members(config: ModelConfig) -> dict[str, list[str]]:
    """GGUF's tensor names, in file order, each with the canonical weights that it holds one after the other."""
    members: dict[str, list[str]] = {}
    for name, _ in weight_shapes(config):
        if name in TOP:
            members[TOP[name]] = [name]
            continue
        _, layer, part, *rest = name.split(".")
        if part != "experts":
            members[f"blk.{layer}.{PARTS[part]}"] = [name]
        else:
            suffix = "" if config.is_dense else "_exps"
            members.setdefault(f"blk.{layer}.ffn_{rest[1]}{suffix}.weight", []).append(name)
    return members


def tensor_type(name: str, shape: tuple[int, ...], format_name: str) -> TensorType:
    """The ggml type of a canonical weight in a file of this format."""
    if len(shape) == 1 or name.endswith(".router"):
        return gguf_file.F32
    if format_name == "q8_0" and shape[1] % _BLOCK:
        return gguf_file.F16
    return _TYPES[format_name]


def metadata(config: ModelConfig, model_name: str, format_name: str) -> dict[str, Value]:
    """What llama.cpp needs to know of a model, tokenizer aside."""
    values: dict[str, Value] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": model_name,
        "general.file_type": _FILE_TYPES[format_name],
        "general.quantization_version": _QUANTIZATION_VERSION,
        "llama.vocab_size": config.vocab_size,
        "llama.block_count": config.n_layers,
        "llama.context_length": config.max_seq_len,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
    }
    if config.sliding_window is not None:
        values["llama.attention.sliding_window"] = config.sliding_window
    if not config.is_dense:
        values |= {"llama.expert_count": config.n_experts, "llama.expert_used_count": config.n_experts_per_token}
    return values


def quantize_q8_0(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows [n, D] as q8_0 blocks [n, D / 32 * 34]: a float16 scale and 32 int8, as ggml's own quantizer rounds them.

    Source: ggml-quants.c, quantize_row_q8_0_ref; halves are rounded away from zero
    """
    blocks = x.reshape(-1, _BLOCK)
    out = np.empty((len(blocks), _BLOCK + 2), np.uint8)

    def work(start: int) -> None:
        part, to = blocks[start : start + _AT_ONCE], out[start : start + _AT_ONCE]
        scale = np.abs(part).max(axis=1, keepdims=True)
        scale /= np.float32(127)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.float32(1) / scale
        inverse[np.isinf(inverse)] = 0  # of a scale that is zero, or as good as
        scaled = part * inverse
        scaled += np.copysign(np.float32(0.5), scaled)
        with np.errstate(over="ignore"):  # seen to by those who write files
            to[:, :2] = scale.astype(np.float16).view(np.uint8)
        to[:, 2:] = scaled.astype(np.int8).view(np.uint8)  # cuts off what is behind the point

    with ThreadPoolExecutor(read_machine().threads) as pool:
        list(pool.map(work, range(0, len(blocks), _AT_ONCE)))
    return out.reshape(len(x), -1)


def _pieces(stream: WeightStream, name: str, kind: TensorType, config: ModelConfig) -> Iterator[Array]:
    """A weight's data, in blocks of rows; wq and wk in one, for their rows change places."""
    found: Iterator[Array] = stream.pieces(name, _ROWS[kind])
    if kind is gguf_file.Q8_0:
        found = (_checked(name, quantize_q8_0(block)) for block in found)
    if name.endswith((".wq", ".wk")):
        yield neighbours_from_halves(np.concatenate(list(found)), config.head_dim)
    else:
        yield from found


def _checked(name: str, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows of q8_0 blocks, if all of their scales are finite."""
    scales = rows.reshape(-1, _BLOCK + 2)[:, :2].copy().view(np.float16)
    if np.isinf(scales).any():
        raise CheckpointError(f"{name}: expected weights up to {127 * 65504} for q8_0, found a larger one; use bf16")
    return rows
