"""What choosing each matrix's format saves: KL to the source against one format for all, at the same bytes.

    python benchmarks/allocation.py MODEL [--judge TEXT] [--calibration TEXT] [--dither SHARE] [--formats q6,q4]

MODEL is any checkpoint, or "toy": a random model of 8x7B's shape in small, `source_model.py`. It is measured as `octuor
pack` does it, once; then, for each format, three packs of the same size are written and judged by their KL divergence
from MODEL, weights and activations rounded as they run:

    plain     every matrix in the format, scales searched without importance: what `convert` would write without KEPT
    uniform   the same with importance
    packed    the formats that `octuor pack` chooses within the bytes of `uniform`

TEXT to judge on is UTF-8, or JSON lines with "text", either packed with xz if it likes; default: the passages that
calibration held out. --dither adds Gaussian noise of that share of each matrix's root mean square: a source that was
once quantized itself, as the pocket model was, has only the numbers of that format, which then loses nothing.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.pack import PackInParts, open_pack
from octuor.ops.native import NativeOps
from octuor.quant import F32, Format, find_format
from octuor.tokenizer import open_tokenizer
from octuor.tools.pack.budget import Budget, choose, quantized
from octuor.tools.pack.calibrate import calibrate
from octuor.tools.pack.compare import Comparison, compare
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.text import read_corpus
from octuor.tools.pack.walk import F32Array, Source, Walk
from octuor.tools.pack.write import write_layers
from octuor.weights import Weight
from source_model import write_original

WINDOW = 256  # tokens judged at once


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--judge", type=Path, default=None)
    parser.add_argument("--tokens", type=int, default=2048, help="of the judging text; default %(default)s")
    parser.add_argument("--calibration", type=Path, default=None)
    parser.add_argument("--dither", type=float, default=0.0)
    parser.add_argument("--formats", default="q6,q5,q4,q3", help="default %(default)s")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """The table; folder is for what is written on the way."""
    if options.model == "toy":
        write_original("toy", folder / "toy")
        options.model = folder / "toy"
    checkpoint, ops = open_checkpoint(options.model), NativeOps(threads=options.threads)
    if options.dither:
        checkpoint = dithered(checkpoint, options.dither)
    source = Source(checkpoint, ops)
    corpus = read_corpus(checkpoint, options.calibration)
    found = calibrate(source, ops, corpus, Journal(folder / "journal"))
    sequences: Sequence[NDArray[np.int32]] = corpus.held_out
    hidden = found.held_out
    if options.judge is not None:
        sequences = read_windows(checkpoint, options.judge, options.tokens)
        hidden = last_states(source, sequences)

    def judged(formats: Mapping[str, Format], importance: Mapping[str, F32Array]) -> Comparison:
        with PackInParts(folder / "row.octuor", checkpoint.config, formats) as file:
            journal = Journal(folder / "row.journal")
            write_layers(source, ops, formats, importance, file, journal)
            journal.remove()
            return compare(source, Source(open_pack(file.partial), ops), sequences, hidden)

    print(f"{sum(map(len, corpus.calibration))} tokens to measure on, {sum(map(len, sequences))} to judge by")
    print(
        f"{'format':7} {'bits':>6} {'plain':>9} {'uniform':>9} {'packed':>9} {'lowered':>8} {'expected':>9} "
        f"{'gap':>8} {'same next':>9}"
    )
    shapes = quantized(checkpoint.config)
    for row in map(find_format, options.formats.split(",")):
        uniform = {name: row if name in shapes else F32 for name in checkpoint.names}
        n_bytes = sum(row.n_bytes(shape) for shape in shapes.values())
        plan = choose(checkpoint.config, found.losses, Budget(n_bytes, row.name))
        plain, alike = judged(uniform, {}), judged(uniform, found.importance)
        chosen = judged(plan.formats, found.importance)
        print(
            f"{row.name:7} {plan.bits:6.3f} {plain.divergence:9.5f} {alike.divergence:9.5f} "
            f"{chosen.divergence:9.5f} {100 * (1 - chosen.divergence / alike.divergence):6.1f} % "
            f"{plan.allocation.loss:9.5f} {100 * plan.allocation.gap:6.3f} % {100 * chosen.agreement:7.2f} %",
            flush=True,
        )


def dithered(checkpoint: Checkpoint, share: float) -> Checkpoint:
    """The same model with noise on every matrix but the routers, the same each time."""

    def load(name: str) -> Weight:
        weight = checkpoint.get(name)
        x = weight.to_f32()
        if len(weight.shape) == 2 and not name.endswith(".router"):
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            x = x + np.float32(share * np.sqrt(np.square(x).mean())) * rng.standard_normal(x.shape, dtype=np.float32)
        return Weight(np.ascontiguousarray(x), weight.shape, F32, name)

    return Checkpoint(
        checkpoint.config, checkpoint.source, "dithered", load, checkpoint.tokenizer, checkpoint.tokenizer_kind
    )


def read_windows(checkpoint: Checkpoint, path: Path, n_tokens: int) -> list[NDArray[np.int32]]:
    """The text's first tokens in windows, each after BOS."""
    assert checkpoint.tokenizer is not None, "a model without a tokenizer is judged by its held-out ids"
    tokenizer = open_tokenizer(checkpoint.tokenizer)
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
    if ".jsonl" in path.suffixes:
        text = "\n".join(json.loads(line)["text"] for line in text.splitlines()[:1000])
    ids = tokenizer.encode(text[: 16 * n_tokens])[:n_tokens]
    starts = range(0, len(ids), WINDOW - 1)
    return [np.array([tokenizer.bos_id, *ids[start : start + WINDOW - 1]], dtype=np.int32) for start in starts]


def last_states(source: Source, sequences: Sequence[NDArray[np.int32]]) -> F32Array:
    """Final hidden states of the source."""
    walk = Walk.start(source, sequences)
    for _ in range(source.config.n_layers):
        walk.step()
    return walk.x


if __name__ == "__main__":
    main()
