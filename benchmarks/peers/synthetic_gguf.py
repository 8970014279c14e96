"""A GGUF with Mixtral 8x7B's geometry and random weights, written at disk speed: what llama.cpp and its kin are fed.

    python -m synthetic_gguf OUT.gguf --type Q4_K --layers 8

Weights have the sizes that `octuor synth` gives them (unit embedding, 1/sqrt(dim) elsewhere, a quarter for the norm
before attention), so that both engines meet tokens that stay apart and experts that are evenly used. Every matrix is a
run through a pool of blocks from a starting place of its own. Runs in a peer's environment: needs NumPy and gguf.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggml_blocks import BLOCKS, Bytes, random_blocks

DIM, HIDDEN_DIM, N_HEADS, N_KV_HEADS, N_EXPERTS, VOCAB_SIZE, MAX_SEQ_LEN = 4096, 14336, 32, 8, 8, 32000, 32768
KV_DIM = DIM // N_HEADS * N_KV_HEADS
ATTENTION_GAIN = 0.25
POOL_BYTES = 48 << 20  # more than one expert's matrix, so that no row repeats in it
N_BYTE_TOKENS = 256


@dataclass(frozen=True)
class Tensor:
    """A weight of the file: GGUF name, shape in NumPy's order, block type or F32, root mean square (F32 1-D: value)."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    rms: float


def tensors(type_name: str, head_type: str, n_layers: int) -> Iterator[Tensor]:
    """All tensors in the order of the file."""
    rms = DIM**-0.5
    yield Tensor("token_embd.weight", (VOCAB_SIZE, DIM), type_name, 1.0)
    for n in range(n_layers):
        layer = f"blk.{n}."
        yield Tensor(layer + "attn_norm.weight", (DIM,), "F32", ATTENTION_GAIN)
        yield Tensor(layer + "attn_q.weight", (DIM, DIM), type_name, rms)
        yield Tensor(layer + "attn_k.weight", (KV_DIM, DIM), type_name, rms)
        yield Tensor(layer + "attn_v.weight", (KV_DIM, DIM), type_name, rms)
        yield Tensor(layer + "attn_output.weight", (DIM, DIM), type_name, rms)
        yield Tensor(layer + "ffn_norm.weight", (DIM,), "F32", 1.0)
        yield Tensor(layer + "ffn_gate_inp.weight", (N_EXPERTS, DIM), "F32", rms)
        yield Tensor(layer + "ffn_gate_exps.weight", (N_EXPERTS, HIDDEN_DIM, DIM), type_name, rms)
        yield Tensor(layer + "ffn_up_exps.weight", (N_EXPERTS, HIDDEN_DIM, DIM), type_name, rms)
        yield Tensor(layer + "ffn_down_exps.weight", (N_EXPERTS, DIM, HIDDEN_DIM), type_name, rms)
    yield Tensor("output_norm.weight", (DIM,), "F32", 1.0)
    yield Tensor("output.weight", (VOCAB_SIZE, DIM), head_type, rms)


class Source:
    """Draws tensors; holds the pools of blocks."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pools: dict[tuple[str, float], Bytes] = {}

    def draw(self, tensor: Tensor) -> Any:
        """The tensor's data: float32 of its shape, or bytes [..., bytes of a row]."""
        if tensor.type_name == "F32":
            if len(tensor.shape) == 1:
                return np.full(tensor.shape, tensor.rms, dtype=np.float32)
            return self._rng.standard_normal(tensor.shape, dtype=np.float32) * np.float32(tensor.rms)
        key = (tensor.type_name, tensor.rms)
        if key not in self._pools:
            n_blocks = POOL_BYTES // BLOCKS[tensor.type_name].n_bytes
            self._pools[key] = random_blocks(tensor.type_name, n_blocks, tensor.rms, self._rng)
        pool, shape = self._pools[key], _stored(tensor)
        out = np.empty((int(np.prod(shape)) // pool.shape[1], pool.shape[1]), dtype=np.uint8)
        at = 0
        while at < len(out):
            run = pool[int(self._rng.integers(len(pool) // 2)) :][: len(out) - at]
            out[at : at + len(run)] = run
            at += len(run)
        return out.reshape(shape)


def _stored(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape[:-1], BLOCKS[tensor.type_name].size(tensor.shape[-1]))


def write(out: Path, type_name: str, n_layers: int, head_type: str | None = None, seed: int = 0) -> None:
    """Write the file under a partial name, then rename it; one tensor is in memory at a time.

    head_type  of the output matrix; default: what llama-quantize takes, Q6_K, or Q8_0 beside Q8_0
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    head_type = head_type or ("Q8_0" if type_name == "Q8_0" else "Q6_K")
    partial = out.with_name(out.name + ".partial")
    writer = GGUFWriter(partial, "llama")
    _add_geometry(writer, f"synthetic-8x7b-{type_name}", n_layers)
    _add_vocabulary(writer)
    rows = list(tensors(type_name, head_type, n_layers))
    for row in rows:
        if row.type_name == "F32":
            writer.add_tensor_info(row.name, row.shape, np.dtype(np.float32), 4 * int(np.prod(row.shape)))
        else:
            shape, kind = _stored(row), GGMLQuantizationType(BLOCKS[row.type_name].type_id)
            writer.add_tensor_info(row.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    source = Source(seed)
    for row in rows:
        writer.write_tensor_data(source.draw(row))
    writer.close()
    partial.replace(out)


def _add_geometry(writer: Any, name: str, n_layers: int) -> None:
    writer.add_name(name)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_context_length(MAX_SEQ_LEN)
    writer.add_embedding_length(DIM)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(HIDDEN_DIM)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(DIM // N_HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(2)


def _add_vocabulary(writer: Any) -> None:
    """A stub: control tokens, bytes, and made-up words up to the vocabulary's size."""
    from gguf import TokenType

    words = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % n for n in range(N_BYTE_TOKENS))]
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * N_BYTE_TOKENS]
    n_more = VOCAB_SIZE - len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words + [f"\u2581t{n}".encode() for n in range(n_more)])
    writer.add_token_types(kinds + [TokenType.NORMAL] * n_more)
    writer.add_token_scores([0.0] * len(words) + [-float(n) for n in range(n_more)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_K", choices=sorted(BLOCKS), help="of all matrices; default %(default)s")
    parser.add_argument("--head", choices=sorted(BLOCKS), help="of the output matrix; default Q6_K (Q8_0 beside Q8_0)")
    parser.add_argument("--layers", type=int, default=8, help="default %(default)s")
    args = parser.parse_args()
    write(args.out, args.type, args.layers, args.head)


if __name__ == "__main__":
    main()
