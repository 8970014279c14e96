"""What quantization is measured on: a model in bfloat16, one that was quantized redrawn, or a toy of 8x7B's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import octuor
from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.quant import BF16, Format
from octuor.quant.grouped import LAYOUTS, unpack
from octuor.quant.int8_exact import GROUP, INPUTS, unpack_q8, untile
from octuor.tools.export.huggingface import write_huggingface
from octuor.weights import Weight

F32Array = NDArray[np.float32]

TOY = ModelConfig(512, 4, 8, 2, 64, 1792, 32000, max_seq_len=4096)


def write_original(model: str, folder: Path) -> None:
    """MODEL in bfloat16 as a Hugging Face folder; "toy" is the toy, with the pocket model's tokenizer."""
    pocket = octuor.load(None).checkpoint
    source = pocket if model == "toy" else open_checkpoint(model)
    words = source.tokenizer_bytes()
    assert words is not None, "a text has to be read"
    tokenizer = folder.with_name(f"{folder.name}.{source.tokenizer_kind}")
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_bytes(words)
    if model == "toy":
        write_huggingface(folder, TOY, toy, BF16, tokenizer)
    else:
        write_huggingface(folder, source.config, lambda name: redrawn(source.get(name)), BF16, tokenizer)


def redrawn(weight: Weight) -> F32Array:
    """Each weight drawn evenly from its rounding's cell; plain formats as they are."""
    x = weight.to_f32()
    if not (isinstance(weight.format, Format) and weight.format.is_tiled):
        return x
    if weight.format.name in LAYOUTS:
        d, s, _ = unpack(LAYOUTS[weight.format.name], weight.data)
        steps = np.repeat(np.abs(s), GROUP, axis=-1) * d[..., None]
    else:
        steps = np.repeat(unpack_q8(weight.data)[0][..., None], INPUTS, axis=-1)
    place = np.random.default_rng(0).random(x.shape, dtype=np.float32) - np.float32(0.5)
    return x + untile(steps.astype(np.float32), x.shape) * place


def toy(name: str) -> F32Array:
    """A weight of the toy: Student's t of 5 degrees of freedom, heavy tails as trained weights have.

    Channels differ as in trained models: what layers write into them is log-normal in size, six times 8 larger, and
    norms take half of that back. A layer's experts have most of their weights in common, as where they grew from one,
    and add a little to the stream: with independent experts every token whose routing changes is another text's.
    """
    rng = np.random.default_rng(list(name.encode()))
    part, d, f = name.rpartition(".")[2], TOY.dim, TOY.hidden_dim
    heads, shared = TOY.n_heads * TOY.head_dim, TOY.n_kv_heads * TOY.head_dim
    channels = np.exp(0.5 * np.random.default_rng(1).standard_normal(d))
    channels[np.random.default_rng(2).choice(d, 6, replace=False)] *= 8
    shapes = {
        "embed": (TOY.vocab_size, d), "lm_head": (TOY.vocab_size, d), "router": (TOY.n_experts, d), "wq": (heads, d),
        "wk": (shared, d), "wv": (shared, d), "wo": (d, heads), "gate": (f, d), "up": (f, d), "down": (d, f),
    }  # fmt: skip
    if part not in shapes:
        return (np.exp(0.3 * rng.standard_normal(d)) / channels**0.5).astype(np.float32)
    shape = shapes[part]
    x = rng.standard_t(5, shape) * shape[1] ** -0.5
    if part in ("gate", "up", "down"):
        common = np.random.default_rng(list((name[: name.index("experts")] + part).encode()))
        x = 0.5 * x + 0.866 * common.standard_t(5, shape) * shape[1] ** -0.5
    if part == "embed":
        x *= shape[1] ** 0.5
    elif part == "lm_head":
        x *= 2.5
    elif part in ("wo", "down"):
        x *= 0.1 * channels[:, None]
    return x.astype(np.float32)
