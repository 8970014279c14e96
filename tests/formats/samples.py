"""Samples of quantized checkpoints, each written by its own program, and what has to be true of them.

A writer, write_NAME.py FOLDER, runs in build/formats/NAME. It finds in FOLDER

    models/CASE/    plain checkpoints of float16 in the Hugging Face layout: see MODELS; with some tokenizer
    tokens.npy      int64 [T]: what the models are run on

and writes, for each of its samples,

    SAMPLE/                 the checkpoint, as its program saves it
    SAMPLE/expected.npz     module as plain files name it, without `.weight` -> what the program's own dequantizer has
    SAMPLE/logits.npy       [T, V], where the program can run the model on a CPU
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.huggingface import places_of
from octuor.config import ModelConfig
from octuor.ops.reference import ReferenceOps
from octuor.quant import F16
from octuor.tools.convert import convert
from octuor.tools.export.huggingface import write_huggingface
from toys import F32Array, Toy, random_values, relative_error

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "formats"
POCKET = HERE.parents[1] / "src" / "octuor" / "models" / "pocket.octuor"
ENDS_WITHIN_S = 3600.0
N_TOKENS = 24

# Extents in groups of 128 and more, and extents that share no more than 32.
MODELS = {
    "toy": ModelConfig(
        dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=512, vocab_size=320, n_experts=4,
        max_seq_len=512,
    ),
    "odd": ModelConfig(
        dim=96, n_layers=1, n_heads=3, n_kv_heads=1, head_dim=32, hidden_dim=160, vocab_size=130, n_experts=3,
        max_seq_len=512,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """How far our reading of a sample is from its program's.

    weights    largest difference of a quantized weight from the program's dequantizer's
    n_weights  quantized matrices compared
    """

    weights: float
    n_weights: int


def write_models(folder: Path, *, pocket: bool) -> None:
    """The plain checkpoints that writers quantize."""
    for case, config in MODELS.items():
        values = random_values(config, [5])
        write_huggingface(folder / "models" / case, config, values.__getitem__, F16)
    if pocket:
        checkpoint = open_checkpoint(POCKET)
        write_huggingface(
            folder / "models" / "pocket", checkpoint.config, lambda name: checkpoint.get(name).to_f32(), F16
        )
    for path in (folder / "models").iterdir():
        words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, 16)}
        Tokenizer(WordLevel(words, unk_token="<unk>")).save(str(path / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    rng = np.random.default_rng(6)
    least = min(config.vocab_size for config in MODELS.values())
    np.save(folder / "tokens.npy", rng.integers(3, least, N_TOKENS))


def write_samples(program: str, folder: Path, *, pocket: bool = True) -> Path:
    """Let a program write its samples into a folder; AssertionError with its output where it fails."""
    write_models(folder, pocket=pocket)
    done = subprocess.run(
        [ENVIRONMENTS / program / "bin" / "python", HERE / f"write_{program}.py", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENDS_WITHIN_S,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return folder


def compare_weights(sample: Path) -> Errors:
    """Every matrix that the program dequantized, beside ours; names that are not the model's are an error."""
    checkpoint = open_checkpoint(sample)
    with np.load(sample / "expected.npz") as expected:
        rest, largest = set(expected.files), 0.0
        for name in checkpoint.names:
            weight = checkpoint.get(name)
            modules = {p.tensor.removesuffix(".weight") for p in places_of(name, weight.shape, checkpoint.config)}
            for module in modules & rest:
                theirs = np.asarray(expected[module], np.float32)
                ours = weight.to_f32()
                assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
                same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
                largest = max(largest, float(np.abs(np.where(same, 0, ours - theirs)).max()))
                rest.remove(module)
        assert expected.files, f"{sample}: nothing to compare"
        assert not rest, f"not found in the model: {sorted(rest)[:3]}"
        return Errors(largest, len(expected.files))


def samples_in(folder: Path) -> set[str]:
    """Names of the samples that a program wrote."""
    return {path.parent.name for path in folder.glob("*/expected.npz")}


def assert_a_pack_keeps_the_weights(sample: Path, pack: Path) -> None:
    """Converted to float32, every number is what the folder's was."""
    source = open_checkpoint(sample)
    found = open_checkpoint(convert(source, pack, "f32").path)
    for name in source.names:
        np.testing.assert_array_equal(found.get(name).to_f32(), source.get(name).to_f32(), err_msg=name)


def our_logits(checkpoint: Checkpoint, tokens: list[int]) -> F32Array:
    """Logits [T, V] by the definition of every operation."""
    weights = {name: checkpoint.get(name) for name in checkpoint.names}
    return Toy(ReferenceOps(), checkpoint.config, weights).alone(tokens)


def logits_error(sample: Path) -> float:
    """The largest difference from the program's own logits, relative to the largest of them."""
    tokens = np.load(sample.parent / "tokens.npy").tolist()
    return relative_error(our_logits(open_checkpoint(sample), tokens), np.load(sample / "logits.npy"))
