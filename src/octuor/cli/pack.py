"""octuor pack: the best pack of a model that a budget allows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.checkpoint import Checkpoint
    from octuor.tools.pack.budget import Budget
    from octuor.tools.pack.job import PackResult

DEFAULT_CONTEXT = 4096


def main(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder or file, a pack, or a Hub id.")],
    out: Annotated[Path, typer.Argument(help="The pack to write, as in mixtral.octuor.")],
    memory: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation at run time
        typer.Option(help="Memory that running it may take, cache and all, as in 16GiB."),
    ] = None,
    bits: Annotated[Optional[float], typer.Option(help="Instead: mean bits of a weight, as in 3.0.")] = None,  # noqa: UP045
    context: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help=f"Tokens that --memory has a cache for; default: {DEFAULT_CONTEXT}, or all the model's."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Answers at once that --memory has caches for.")] = 1,
    cache_dtype: Annotated[str, typer.Option(help="Of keys and values: f16 or f32.")] = "f16",
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A UTF-8 text to measure on; default: Octuor's own."),
    ] = None,
    quality: Annotated[str, typer.Option(help="normal, or best: rounding errors fed forward, which takes longer.")] = (
        "normal"
    ),
    threads: options.Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as the pack that loses least within a budget, with a report card.

    Each matrix gets a format of its own, by what its rounding costs. A run that was killed goes on where it was.
    """
    from octuor.cli.progress import stages_bar
    from octuor.errors import RequestError
    from octuor.tools.pack.budget import bits_budget, memory_budget
    from octuor.tools.pack.job import STEPS, pack
    from octuor.units import parse_bytes

    if (memory is None) == (bits is None):
        raise RequestError("budget: expected --memory or --bits, found " + ("neither" if memory is None else "both"))
    if cache_dtype not in ("f16", "f32"):
        raise RequestError(f"--cache-dtype: expected f16 or f32, found {cache_dtype!r}")

    def budget(checkpoint: Checkpoint) -> Budget:
        config = checkpoint.config
        if bits is not None:
            return bits_budget(config, bits)
        tokens = min(DEFAULT_CONTEXT, config.max_seq_len) if context is None else context
        return memory_budget(config, parse_bytes(memory or ""), tokens, batch, cache_dtype)

    with stages_bar(STEPS) as progress:
        result = pack(
            source, out, budget,
            calibration=calibration, quality=quality, threads=threads, overwrite=overwrite,
            on_step=progress, on_note=_say,
        )  # fmt: skip
    if as_json:
        print(json.dumps(_as_json(result)))
    else:
        _print(result)


def _say(line: str) -> None:
    print(f"octuor: {line}", file=sys.stderr)


def _as_json(result: PackResult) -> dict[str, object]:
    return {
        "path": str(result.path),
        "bytes": result.n_bytes,
        "seconds": result.seconds,
        "reports": [str(path) for path in result.report_files],
        "report": result.report.as_json(),
    }


def _print(result: PackResult) -> None:
    report, measured = result.report, result.report.measured
    print(
        f"{result.path}: {result.n_bytes / 1e9:.2f} GB, {report.bits:.2f} bits a weight, in {result.seconds:.0f} s\n"
        f"on {measured.n_tokens} held-out tokens: KL to the source {measured.divergence:.4f} nats a token, same "
        f"likeliest token {100 * measured.agreement:.1f} %, perplexity {measured.perplexity:.4g}, was "
        f"{measured.source_perplexity:.4g}\n"
        f"report: {result.report_files[1]}"
    )
