"""llama.cpp's quantized files of a Hugging Face folder, made by its own programs, and their weights under our names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.config import ModelConfig

F32Array = NDArray[np.float32]
Arrays = dict[str, F32Array]  # canonical name -> widened weight


def make_files(
    kinds: Sequence[str], original: Path, tools: Path, converter: Path, calibration: Path, seen_at_once: int
) -> Iterator[tuple[str, Path]]:
    """Each kind of file, made where it is not there yet, beside `original`, a Hugging Face folder.

    tools      a folder with llama-quantize and llama-imatrix
    converter  llama.cpp's convert_hf_to_gguf.py, which sys.executable has the packages for
    """
    work = original.parent
    plain, importance = work / "plain.gguf", work / "importance.gguf"
    if not plain.exists():
        _run(sys.executable, converter, original, "--outtype", "f32", "--outfile", plain)
    if not importance.exists():
        texts = ("-f", calibration, "-o", importance, "-c", seen_at_once, "--no-ppl")
        _run(tools / "llama-imatrix", "-m", plain, *texts)
    for kind in kinds:
        path = work / f"{kind}.gguf"
        if not path.exists():
            _run(tools / "llama-quantize", "--imatrix", importance, plain, path, kind)
        yield kind, path


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


GGUF_NAMES = {"token_embd": "embed", "output": "lm_head", "output_norm": "norm"}
GGUF_PARTS = {
    "attn_q": "wq", "attn_k": "wk", "attn_v": "wv", "attn_output": "wo", "attn_norm": "attention_norm",
    "ffn_norm": "moe_norm", "ffn_gate_inp": "router",
}  # fmt: skip


def read_gguf(path: Path, config: ModelConfig) -> tuple[Arrays, int]:
    """All weights as the `gguf` package widens them, by canonical names; bytes of the quantized matrices."""
    import gguf

    arrays, n_bytes = {}, 0
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        x = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)
        base = tensor.name.removesuffix(".weight")
        if base in GGUF_NAMES:
            arrays[GGUF_NAMES[base]] = x
        elif base.endswith("_exps"):
            _, layer, part = base.split(".")
            for e, expert in enumerate(x):
                arrays[f"layers.{layer}.experts.{e}.{part.split('_')[1]}"] = np.ascontiguousarray(expert)
        else:
            _, layer, part = base.split(".")
            heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(part)
            arrays[f"layers.{layer}.{GGUF_PARTS[part]}"] = x if heads is None else _halves(x, heads)
        if len(shape) > 1 and "gate_inp" not in base:
            n_bytes += int(tensor.n_bytes)
    return arrays, n_bytes


def _halves(x: F32Array, heads: int) -> F32Array:
    """Rows whose neighbours rotate, in the order in which halves do."""
    out, inputs = x.shape
    pairs = x.reshape(heads, out // heads // 2, 2, inputs)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(out, inputs))
