"""Toy GGUF files, written by llama.cpp's own Python package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFEndian, GGUFWriter
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from octuor.config import ModelConfig

Arrays = Mapping[str, NDArray[np.float32]]
Q = GGMLQuantizationType

TOY = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=96, vocab_size=300, n_experts=3,
    max_seq_len=512,
)  # fmt: skip
DENSE = ModelConfig(
    dim=64, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=96, vocab_size=300, n_experts=1,
    n_experts_per_token=1, max_seq_len=512, norm_eps=1e-6, rope_theta=1e4,
)  # fmt: skip
_TOP = {"embed": "token_embd", "norm": "output_norm", "lm_head": "output"}
_PARTS = {
    "attention_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
    "moe_norm": "ffn_norm", "router": "ffn_gate_inp",
}  # fmt: skip


def metadata_of(config: ModelConfig) -> dict[str, Any]:
    """What llama.cpp's converter writes of a config."""
    found = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": config.rope_theta,
        "rope.dimension_count": config.head_dim,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }
    if not config.is_dense:
        found |= {"expert_count": config.n_experts, "expert_used_count": config.n_experts_per_token}
    return {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in found.items()}


def tensors_of(config: ModelConfig, values: Arrays, *, merged: bool = True) -> dict[str, NDArray[np.float32]]:
    """The weights as files name and order them; merged: all experts of a layer in one tensor."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, x in values.items():
        *_, part = name.split(".")
        if name in _TOP:
            found[_TOP[name] + ".weight"] = x
            continue
        at = f"blk.{name.split('.')[1]}."
        if ".experts." not in name:
            heads = {"wq": config.n_heads, "wk": config.n_kv_heads}.get(part)
            found[f"{at}{_PARTS[part]}.weight"] = x if heads is None else neighbours(x, heads)
        elif config.is_dense:
            found[f"{at}ffn_{part}.weight"] = x
        elif not merged:
            found[f"{at}ffn_{part}.{name.split('.')[3]}.weight"] = x
        elif ".experts.0." in name:
            every = [values[name.replace(".experts.0.", f".experts.{e}.")] for e in range(config.n_experts)]
            found[f"{at}ffn_{part}_exps.weight"] = np.stack(every)
    return found


def neighbours(x: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from halves to neighbours, as `permute` in llama.cpp's conversion/llama.py has it."""
    return x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write_file(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Arrays,
    kind: GGMLQuantizationType = Q.F32,
    *,
    shard_tensors: int = 0,
    big_endian: bool = False,
) -> Path:
    """Write a file, or several with shard_tensors tensors each; matrices in a type that the package can write.

    Vectors and routers stay F32. Returns the path of the file, or of the first shard.
    """
    writer = GGUFWriter(
        path, "llama", endianess=GGUFEndian.BIG if big_endian else GGUFEndian.LITTLE, split_max_tensors=shard_tensors
    )
    for key, value in metadata.items():
        if key != "general.architecture":
            add_value(writer, key, value)
        elif value != "llama":
            writer.kv_data[0].pop(key)
            writer.add_string(key, value)
    for name, x in tensors.items():
        own = Q.F32 if x.ndim == 1 or "gate_inp" in name else kind
        if own in (Q.F32, Q.F16):
            writer.add_tensor(name, gguf.quants.quantize(x, own))
        else:
            writer.add_tensor(name, gguf.quants.quantize(x, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not shard_tensors:
        return path
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata entry in the type that llama.cpp's converter would give it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def toy_tokenizer(n_pieces: int) -> dict[str, Any]:
    """Metadata of a tokenizer: three control tokens, all bytes, and letters of the alphabet with merges of them."""
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    words = ["▁", *"abcdefghijklmnop", "▁a", "ab", "▁ab", "cd", "abcd"]
    rest = words[: n_pieces - len(pieces)]
    pieces += [word.encode() for word in rest]
    pieces += [b"[PAD%d]" % i for i in range(len(pieces), n_pieces)]
    n_unused = n_pieces - 259 - len(rest)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-float(i) for i in range(n_pieces)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(rest) + [5] * n_unused,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def patched(data: bytes, old: bytes, new: bytes, *, times: int = 1) -> bytes:
    """The bytes with `old`, which are there so many times, replaced."""
    assert data.count(old) == times, (old, data.count(old))
    return data.replace(old, new)


def packed(numbers: Sequence[int], n_bytes: int) -> bytes:
    """Little-endian numbers of n_bytes each."""
    return b"".join(number.to_bytes(n_bytes, "little") for number in numbers)
