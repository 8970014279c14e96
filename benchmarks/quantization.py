"""Quality at equal size: our packs beside llama.cpp's K-quants with an importance matrix, in KL to the bf16 source.

    python benchmarks/quantization.py MODEL --tools DIR --converter convert_hf_to_gguf.py --calibration TEXT
        --judge TEXT --work DIR [--tokens N] [--seen N] [--peers Q4_K_M,...] [--title NAME] [--plot FILE.png]

MODEL is a checkpoint with a tokenizer; a matrix that is stored in one of our formats gets, for each weight, a value
drawn evenly from those that round to it, so that no format finds its own grid again. MODEL "toy" is a random model of
8x7B's shape in small: `source_model.py`. DIR has llama-quantize and llama-imatrix, built from llama.cpp, whose
converter makes the file that they take. Both sides see the calibration text; the judging text is another. Needs `gguf`,
`matplotlib`, and what the converter needs.

Bytes are those of all matrices but the routers, which both sides keep in float32. For each of llama.cpp's files ours
has at most as many. KL and the share of equal first choices are means over the judging text's tokens; all files are
widened to float32 and run by the same kernels with float32 activations, so only weights differ; "as it runs" has our
int8 activations, too. Rows:

    llama.cpp   its own mixture of types, scales searched with its importance matrix
    ours        formats chosen by `octuor pack`'s measurements within the same bytes, scales searched by importance
    ours best   the same with error feedback
"""

from __future__ import annotations

import argparse
import lzma
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_files import Arrays, F32Array, make_files, read_gguf
from octuor.api import Model
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps
from octuor.quant import BF16, F32
from octuor.quant.feedback import quantize_with_feedback
from octuor.tokenizer import open_tokenizer
from octuor.tools.pack.budget import Budget, choose, quantized
from octuor.tools.pack.calibrate import Calibration, calibrate
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.text import read_corpus
from octuor.tools.pack.walk import Source, silu
from octuor.weights import Expert, Weight
from source_model import write_original

PEERS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K,IQ4_XS,IQ3_S,IQ2_S"
WINDOW = 256  # tokens judged at once, BOS included
LONG = 512  # of the calibration text, as llama-imatrix has it
FEEDBACK_SHARE = 0.5  # of a matrix's loss that feedback leaves, for choosing formats


@dataclass(frozen=True)
class Row:
    """One file and what it is worth."""

    label: str
    size: str
    n_bytes: int
    bits: float
    divergence: float
    agreement: float
    as_it_runs: float | None


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name in ("tools", "converter", "calibration", "judge", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=4080, help="of the judging text; default %(default)s")
    parser.add_argument("--seen", type=int, default=24000, help="tokens for feedback; default %(default)s")
    parser.add_argument("--peers", default=PEERS, help="default %(default)s")
    parser.add_argument("--title", default=None)
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    ops = NativeOps(threads=options.threads)
    original = options.work / "original"
    if not (original / "config.json").exists():
        write_original(options.model, original)
    checkpoint = open_checkpoint(original)
    exact = {name: np.array(checkpoint.get(name).to_f32()) for name in checkpoint.names}
    judge = Judge(checkpoint, ops, exact, read_windows(checkpoint, options.judge, options.tokens, WINDOW))
    peers = list(read_peers(options, judge))
    with tempfile.TemporaryDirectory() as folder:
        corpus = read_corpus(checkpoint, options.calibration)
        found = calibrate(Source(checkpoint, ops), ops, corpus, Journal(Path(folder) / "journal"))
    recorder = record(checkpoint, exact, read_windows(checkpoint, options.calibration, options.seen, LONG), options)
    rows = [row for peer in peers for row in (peer, *ours(peer, judge, exact, found, recorder, ops))]
    report(rows, options.title or options.model, options.plot)


def read_peers(options: argparse.Namespace, judge: Judge) -> Iterator[Row]:
    """llama.cpp's files, judged."""
    original, kinds = options.work / "original", options.peers.split(",")
    for kind, path in make_files(kinds, original, options.tools, options.converter, options.calibration, LONG):
        arrays, n_bytes = read_gguf(path, judge.checkpoint.config)
        divergence, agreement = judge(arrays)
        row = Row("llama.cpp", kind, n_bytes, 8 * n_bytes / judge.n_weights, divergence, agreement, None)
        print(row, flush=True)
        yield row


# ---- ours ----------------------------------------------------------------------------------------


class Recorder(NativeOps):
    """Adds x x^T of every matrix's inputs to `seen`.

    A token counts by what it makes of an error: over the residual stream's size where the part began, and in experts
    times its routing weight.
    """

    def __init__(self, threads: int | None) -> None:
        super().__init__(threads=threads)
        self._names: dict[int, str] = {}
        self._leaves: list[Any] = []  # kept, so that no other takes one's id
        self._size = np.ones((1, 1), dtype=np.float32)
        self.seen: dict[str, NDArray[np.float32]] = {}

    def put(self, weight: Weight) -> Any:
        leaf = super().put(weight)
        self._names[id(leaf)] = weight.name
        self._leaves.append(leaf)
        return leaf

    def rms_norm(self, x: F32Array, weight: F32Array, eps: float) -> F32Array:
        self._size = np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(eps))
        return super().rms_norm(x, weight, eps)

    def linear(self, x: F32Array, weight: Any) -> F32Array:
        self._see(x if self._names[id(weight)] == "lm_head" else x / self._size, weight)
        return super().linear(x, weight)

    def moe(self, x: F32Array, routing: LayerRouting, experts: Sequence[Expert]) -> F32Array:
        for e, expert in enumerate(experts):
            tokens, rank = np.nonzero(routing.experts == e)
            if len(tokens):
                share = routing.weights[tokens, rank, None] / self._size[tokens]
                own = np.ascontiguousarray(x[tokens])
                self._see(own * share, expert.gate)
                hidden = silu(super().linear(own, expert.gate)) * super().linear(own, expert.up)
                self._see(hidden * share, expert.down)
        return super().moe(x, routing, experts)

    def _see(self, x: F32Array, weight: Any) -> None:
        name = self._names[id(weight)]
        if name.endswith(("wk", "wv", "up")):  # their inputs are those of wq or gate
            return
        self.seen[name] = self.seen.get(name, np.float32(0)) + x.T @ x

    def hessian(self, name: str) -> NDArray[np.float32] | None:
        """Of the matrix called `name`; None where nothing came by: embed, and experts that no token chose."""
        before, dot, part = name.rpartition(".")
        return self.seen.get(before + dot + {"wk": "wq", "wv": "wq", "up": "gate"}.get(part, part))


def record(checkpoint: Checkpoint, exact: Arrays, windows: Sequence[Sequence[int]], options: Any) -> Recorder:
    """Run the calibration text through the source."""
    recorder = Recorder(options.threads)
    model = model_of(checkpoint, recorder, exact)
    for ids in windows:
        model.logits(ids)
    return recorder


def ours(
    peer: Row, judge: Judge, exact: Arrays, found: Calibration, recorder: Recorder, ops: NativeOps
) -> Iterator[Row]:
    """Packs of at most as many bytes as the peer's file."""
    config, shapes = judge.checkpoint.config, quantized(judge.checkpoint.config)
    for label, share in (("ours", 1.0), ("ours best", FEEDBACK_SHARE)):
        losses = {
            name: {row: loss * (1.0 if recorder.hessian(name) is None else share) for row, loss in errors.items()}
            | {BF16.name: 0.0}
            for name, errors in found.losses.items()
        }
        plan = choose(config, losses, Budget(peer.n_bytes, peer.size))
        weights: dict[str, Weight] = {}
        for name, x in exact.items():
            row, hessian = plan.formats[name], recorder.hessian(name) if share < 1 else None
            if hessian is None or not row.is_tiled or row.is_by_rows:
                data = ops.quantize(x, row, found.importance.get(name), thorough=True)
            else:
                data = quantize_with_feedback(x, row, hessian, ops.round_block)
            weights[name] = Weight(data, x.shape, row, name)
        n_bytes = sum(weights[name].nbytes for name in shapes)
        divergence, agreement = judge({name: weight.to_f32() for name, weight in weights.items()})
        bits = 8 * n_bytes / judge.n_weights
        made = Row(label, peer.size, n_bytes, bits, divergence, agreement, judge(weights)[0])
        print(made, flush=True)
        yield made


# ---- judging -------------------------------------------------------------------------------------


class Judge:
    """KL and agreement with the source on a text, by one engine."""

    def __init__(self, checkpoint: Checkpoint, ops: NativeOps, exact: Arrays, windows: Sequence[Sequence[int]]) -> None:
        self.checkpoint, self._ops, self._windows = checkpoint, ops, windows
        self.n_weights = sum(int(np.prod(shape)) for shape in quantized(checkpoint.config).values())
        self._exact = [log_softmax(logits) for logits in self._logits(exact)]

    def __call__(self, weights: Mapping[str, F32Array | Weight]) -> tuple[float, float]:
        """Mean KL(source || weights) in nats a token, and the share of tokens whose likeliest next one is the same."""
        lost, same, n = 0.0, 0, 0
        for exact, logits in zip(self._exact, self._logits(weights), strict=True):
            found = log_softmax(logits)
            lost += float((np.exp(exact) * (exact - found)).sum(dtype=np.float64))
            same += int((exact.argmax(-1) == found.argmax(-1)).sum())
            n += len(exact)
        return lost / n, same / n

    def _logits(self, weights: Mapping[str, F32Array | Weight]) -> Iterator[F32Array]:
        model = model_of(self.checkpoint, self._ops, weights)
        for ids in self._windows:
            yield model.logits(ids)


def model_of(checkpoint: Checkpoint, ops: NativeOps, weights: Mapping[str, F32Array | Weight]) -> Model:
    """A model with weights in memory."""

    def load(name: str) -> Weight:
        found = weights[name]
        return found if isinstance(found, Weight) else Weight(found, found.shape, F32, name)

    held = Checkpoint(checkpoint.config, checkpoint.source, "memory", load)
    return Model(held, ops, context=None, cache_dtype="f32")


def log_softmax(logits: F32Array) -> F32Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: F32Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def read_windows(checkpoint: Checkpoint, path: Path, n_tokens: int, length: int) -> list[list[int]]:
    """A text's beginning as token ids, `length` at a time, each after BOS."""
    assert checkpoint.tokenizer is not None, "a text has to be read"
    tokenizer = open_tokenizer(checkpoint.tokenizer)
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        ids = tokenizer.encode(file.read(8 * n_tokens))[:n_tokens]
    return [[tokenizer.bos_id, *ids[start : start + length - 1]] for start in range(0, len(ids), length - 1)]


def report(rows: Sequence[Row], title: str, plot: Path | None) -> None:
    """The table in Markdown, and the drawing: KL over bits."""
    print("| size of | by | bytes | bits | KL | same first choice | KL as it runs |\n|---|---|---|---|---|---|---|")
    for row in rows:
        runs = "" if row.as_it_runs is None else f"{row.as_it_runs:.6f}"
        print(
            f"| {row.size} | {row.label} | {row.n_bytes:,} | {row.bits:.3f} | {row.divergence:.6f} | "
            f"{100 * row.agreement:.2f} % | {runs} |"
        )
    if plot is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for label, mark in (("llama.cpp", "o"), ("ours", "^"), ("ours best", "s")):
        own = sorted((row for row in rows if row.label == label), key=lambda row: row.bits)
        line = "" if label == "llama.cpp" else "-"
        axes.plot([row.bits for row in own], [row.divergence for row in own], mark + line, label=label)
    for row in rows:
        if row.label == "llama.cpp":
            axes.annotate(row.size, (row.bits, row.divergence), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set(yscale="log", xlabel="bits a weight, all matrices", ylabel="KL to bf16, nats a token", title=title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(plot)


if __name__ == "__main__":
    main()
