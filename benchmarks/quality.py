"""What a number format costs in quality: weight error, and KL of the next token's distribution on a text.

    python benchmarks/quality.py MODEL TEXT [--formats q8,q4] [--override lm_head=q6] [--tokens N] [--isa NAME]

MODEL is any checkpoint with a tokenizer, best in bf16 or better; TEXT is a UTF-8 file, or JSON lines with "text",
either one packed with xz if it likes. The reference is MODEL's own weights as float32 with float32 activations.
Columns, all means over the text's tokens, in nats a token:

    bits     a weight, of all matrices together
    error    root-mean-square error of the matrices relative to their size; embed and lm_head apart
    KL       from the reference to the format as it runs: rounded weights, rounded activations
    weights  from the reference to the rounded weights with float32 activations
    ISA      from there to the format as it runs with that instruction set: the cost of rounding activations
    loss     cross-entropy of the text
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.api import Model
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.ops.native import NativeOps, implementations
from octuor.tools.convert import convert

F32Array = NDArray[np.float32]
WINDOW = 256  # tokens seen at once


def main() -> None:
    """Print a row for the reference and one for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--formats", default="q8,q6,q5,q4,q3,q2", help="default %(default)s")
    parser.add_argument("--override", action="append", default=[], help="as for octuor convert")
    parser.add_argument("--tokens", type=int, default=2048, help="default %(default)s")
    parser.add_argument("--isa", action="append", help="repeatable; default: all that this machine has")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    source = open_checkpoint(options.model)
    isas = options.isa or list(implementations())
    overrides = dict(part.split("=") for part in options.override)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = convert(source, folder / "exact.octuor", "f32").path
        windows = list(read_windows(exact, options.text, options.tokens))
        reference = run(exact, windows, isas[-1], options.threads)
        head = "".join(f"{isa:>11}" for isa in isas)
        print(
            f"{'format':7} {'bits':>6} {'error':>7} {'embed':>7} {'lm_head':>7} {'KL':>9} {'weights':>9}{head} {'loss':>7}"
        )
        print(
            f"{'f32':7} {32:6.3f} {0:7.4f} {0:7.4f} {0:7.4f} {0:9.5f} {0:9.5f}{' ' * len(head)} {loss(reference, windows):7.4f}"
        )
        for row in options.formats.split(","):
            packed = convert(exact, folder / "row.octuor", row, overrides=overrides, overwrite=True).path
            widened = convert(packed, folder / "wide.octuor", "f32", overwrite=True).path
            rounded = run(widened, windows, isas[-1], options.threads)
            found = [run(packed, windows, isa, options.threads) for isa in isas]
            errors = " ".join(
                f"{error:7.4f}" for error in weight_errors(open_checkpoint(exact), open_checkpoint(packed))
            )
            paths = "".join(f"{divergence(rounded, each):11.6f}" for each in found)
            print(
                f"{row:7} {mean_bits(open_checkpoint(packed)):6.3f} {errors} {divergence(reference, found[-1]):9.5f} "
                f"{divergence(reference, rounded):9.5f}{paths} {loss(found[-1], windows):7.4f}",
                flush=True,
            )


def read_windows(model: Path, text: Path, n_tokens: int) -> Iterator[list[int]]:
    """The beginning of a text as token ids, WINDOW at a time, each after BOS."""
    tokenizer = Model(open_checkpoint(model), NativeOps(threads=1), context=None, cache_dtype="f32").tokenizer
    with lzma.open(text, "rt", encoding="utf-8") if text.suffix == ".xz" else text.open(encoding="utf-8") as file:
        ids: list[int] = []
        for line in file:
            ids += tokenizer.encode(json.loads(line)["text"] if ".jsonl" in text.name else line)
            if len(ids) >= n_tokens:
                break
    for start in range(0, min(len(ids), n_tokens), WINDOW - 1):
        yield [tokenizer.bos_id, *ids[start : min(start + WINDOW - 1, n_tokens)]]


def run(path: Path, windows: list[list[int]], isa: str, threads: int | None) -> list[F32Array]:
    """Log-probabilities [T, V] of the next token after each token of each window."""
    model = Model(open_checkpoint(path), NativeOps(isa, threads), context=None, cache_dtype="f32")
    return [log_softmax(model.logits(ids)) for ids in windows]


def log_softmax(logits: F32Array) -> F32Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: F32Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def divergence(reference: list[F32Array], found: list[F32Array]) -> float:
    """Mean KL(reference || found) a token."""
    sums = [float((np.exp(a) * (a - b)).sum(dtype=np.float64)) for a, b in zip(reference, found, strict=True)]
    return sum(sums) / sum(len(a) for a in reference)


def loss(found: list[F32Array], windows: list[list[int]]) -> float:
    """Mean cross-entropy a token."""
    losses = [-a[np.arange(len(ids) - 1), ids[1:]] for a, ids in zip(found, windows, strict=True)]
    return float(np.concatenate(losses).mean())


def weight_errors(exact: Checkpoint, found: Checkpoint) -> tuple[float, float, float]:
    """Relative root-mean-square errors of the layers' matrices, of embed and of lm_head."""
    sums = {"": np.zeros(2), "embed": np.zeros(2), "lm_head": np.zeros(2)}
    for name in exact.names:
        if len(exact.get(name).shape) == 2 and not name.endswith("router"):
            plain, rounded = exact.get(name).to_f32(), found.get(name).to_f32()
            part = sums.get(name, sums[""])
            part += np.square(rounded - plain).sum(dtype=np.float64), np.square(plain).sum(dtype=np.float64)
    layers, embed, lm_head = (float(np.sqrt(error / power)) for error, power in sums.values())
    return layers, embed, lm_head


def mean_bits(checkpoint: Checkpoint) -> float:
    """Bits a weight over all matrices."""
    weights = [checkpoint.get(name) for name in checkpoint.names if len(checkpoint.get(name).shape) == 2]
    return sum(8 * w.data.nbytes for w in weights) / sum(int(np.prod(w.shape)) for w in weights)


if __name__ == "__main__":
    main()
