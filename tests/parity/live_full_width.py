"""One layer of Mixtral-8x7B's true width against transformers, in float32 and bfloat16. About 10 GB, 2 minutes.

    pytest -s tests/parity/live_full_width.py        prints the figures of docs/parity.md

E experts, F hidden_dim, D dim. Weights lie in memory once: transformers' parameters, torch leaves and native
leaves are views of the same arrays. For bfloat16 they are rounded in place, so that float32 and bfloat16
runs have exactly the same weights.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from octuor import model
from octuor.batch import whole
from octuor.checkpoint.huggingface import places_of
from octuor.checkpoint.huggingface_config import write_config
from octuor.checkpoint.tensors import Place
from octuor.config import MIXTRAL_8X7B
from octuor.ops import Ops
from octuor.ops.torch import TorchOps
from octuor.quant import BF16, F32, Format
from octuor.quant.plain import from_bf16, to_bf16
from octuor.weights import Leaf, Weight, build, weight_shapes
from parity.checks import LOGIT_TOLERANCE
from parity.oracle import PLAIN
from toys import NATIVE, F32Array, make_backend, relative_error

CONFIG = replace(MIXTRAL_8X7B, n_layers=1, vocab_size=1000)
SHAPES = dict(weight_shapes(CONFIG))
TOKENS = [int(token) for token in np.random.default_rng(8).integers(0, CONFIG.vocab_size, 24)]
# transformers' own bfloat16 run rounds activations to 8 bits after every step, some twenty times on the way to a
# logit; independent roundings of 2^-9 add up as their root. Octuor keeps activations float32, so what its bfloat16
# weights are held to, at LOGIT_TOLERANCE, is transformers in float32 with the same rounded weights.
TRANSFORMERS_BF16_TOLERANCE = 20**0.5 * 2.0**-9
MAX_PEAK_GB = 11.0

Stored = dict[str, NDArray[Any]]  # transformers' name in memory -> its whole tensor


def place_of(name: str) -> Place:
    """Where transformers holds a weight in memory: experts are fused."""
    return places_of(name, SHAPES[name], CONFIG)[-1]


def draw() -> Stored:
    """Unit rows, so that activations are of order 1; norms around 1."""
    generator = torch.Generator().manual_seed(8)
    found: Stored = {}
    for name in SHAPES:
        place = place_of(name)
        if place.tensor in found:
            continue
        x = torch.empty(place.shape)
        if len(place.shape) == 1:
            x.uniform_(0.5, 1.5, generator=generator)
        else:
            # uniform with the variance of a unit row: twice as fast to draw as normal numbers
            limit = (3 / place.shape[-1]) ** 0.5 if name != "embed" else 3**0.5
            x.uniform_(-limit, limit, generator=generator)
        found[place.tensor] = x.numpy()
    return found


def run(ops: Ops, put: Callable[[str], Leaf]) -> F32Array:
    """Logits [T, V] of TOKENS."""
    tree = build(CONFIG, put)
    with torch.no_grad():
        hidden = model.forward(ops, tree, CONFIG, whole([TOKENS]))
        return ops.to_numpy(model.logits(ops, tree, hidden))


def native_logits(backend: str, stored: Stored, row: Format) -> F32Array:
    ops = make_backend(backend)

    def put(name: str) -> Leaf:
        place = place_of(name)
        own = F32 if stored[place.tensor].dtype == np.float32 else row
        return ops.put(Weight(stored[place.tensor][place.part], SHAPES[name], own, name))

    return run(ops, put)


def torch_logits(stored: Stored) -> F32Array:
    def put(name: str) -> torch.Tensor:
        place = place_of(name)
        return torch.from_numpy(stored[place.tensor])[place.part]

    return run(TorchOps(), put)


def transformers_logits(folder: Path, stored: Stored, dtype: torch.dtype) -> F32Array:
    """transformers' Mixtral with views of `stored` for parameters."""
    with torch.device("meta"):
        oracle = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype, **PLAIN).eval()
    tensors = {name: torch.from_numpy(x) for name, x in stored.items()}
    tensors = {name: x if x.dtype == torch.float32 else x.view(torch.bfloat16) for name, x in tensors.items()}
    oracle.load_state_dict({name: x.to(dtype) for name, x in tensors.items()}, assign=True)
    rotary = oracle.model.rotary_emb
    rotary.inv_freq, _ = rotary.compute_default_rope_parameters(oracle.config)  # a buffer: left on meta
    with torch.no_grad():
        logits: F32Array = oracle(torch.tensor([TOKENS])).logits[0].float().numpy()
    return logits


def round_in_place(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round x to bfloat16 where it lies, and return the rounded numbers as bfloat16 too."""
    short = np.empty(x.shape, dtype=np.uint16)
    rows, short_rows = x.reshape(-1, x.shape[-1]), short.reshape(-1, x.shape[-1])
    for start in range(0, len(rows), 1024):
        part = slice(start, start + 1024)
        short_rows[part] = to_bf16(rows[part])
        rows[part] = from_bf16(short_rows[part])
    return short


def show(what: str, error: float) -> float:
    print(f"{what:64} {error:.1e}")
    return error


def test_one_layer_of_full_width(tmp_path: Path) -> None:
    """One test, for its parts share 6 GB: float32 first, then rounded in place to bfloat16."""
    (tmp_path / "config.json").write_text(write_config(CONFIG, "float32"))
    fastest = NATIVE[-1]
    print(f"\ndim {CONFIG.dim}, hidden_dim {CONFIG.hidden_dim}, {CONFIG.n_experts} experts, {len(TOKENS)} tokens")
    stored = draw()
    expected = transformers_logits(tmp_path, stored, torch.float32)
    f32 = show(f"f32: {fastest} and transformers", relative_error(native_logits(fastest, stored, F32), expected))
    torch_f32 = show("f32: torch and transformers", relative_error(torch_logits(stored), expected))

    short = {name: round_in_place(x) if x.ndim > 1 else x for name, x in stored.items()}
    rounded = transformers_logits(tmp_path, stored, torch.float32)
    del stored
    found = native_logits(fastest, short, BF16)
    bf16 = show(f"bf16: {fastest} and transformers in f32", relative_error(found, rounded))
    theirs = transformers_logits(tmp_path, short, torch.bfloat16)
    own = show("bf16: transformers in bf16 and transformers in f32", relative_error(theirs, rounded))
    between = show(f"bf16: {fastest} and transformers in bf16", relative_error(found, theirs))
    show("transformers in f32: weights rounded to bf16 and not rounded", relative_error(rounded, expected))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"peak memory {peak_gb:.1f} GB")

    assert f32 <= LOGIT_TOLERANCE
    assert torch_f32 <= LOGIT_TOLERANCE
    assert bf16 <= LOGIT_TOLERANCE
    assert max(own, between) <= TRANSFORMERS_BF16_TOLERANCE
    assert peak_gb <= MAX_PEAK_GB
