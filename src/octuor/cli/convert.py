"""octuor convert: any checkpoint to an octuor pack, or to what other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from octuor.cli import options


def main(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder, a pack, or a Hub id.")],
    out: Annotated[Path, typer.Argument(help="The pack, file or folder to write, as in mixtral.octuor.")],
    to: Annotated[str, typer.Option(help="pack, or for other programs: huggingface, mistral or gguf.")] = "pack",
    format_name: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation at run time on every Python it supports
        typer.Option(
            "--format",
            help="Pack: q4 (default), bf16, f16, f32, q8, q6, q5, q3, q2; else bf16 (default), f16, f32; gguf: q8_0.",
        ),
    ] = None,
    override: Annotated[
        list[str], typer.Option(help="In a pack, another format for one part, as in lm_head=q8; repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    adapter: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--merge", help="An adapter's folder, as octuor tune or peft wrote it, to add to the weights."),
    ] = None,
    threads: options.Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint as an octuor pack, or for another program. Packs and GGUF files keep router and norms f32."""
    from octuor.checkpoint import open_checkpoint
    from octuor.cli.progress import bytes_bar
    from octuor.errors import FormatError
    from octuor.tools.convert import convert
    from octuor.tools.export import export
    from octuor.tools.merge import merge

    if malformed := [part for part in override if part.count("=") != 1]:
        raise FormatError(f"--override: expected PART=FORMAT, found {malformed[0]!r}")
    overrides = dict(part.split("=") for part in override)
    if to != "pack" and overrides:
        raise FormatError(f"--override: expected with --to pack alone, found with {to}; leave it out")
    checkpoint = open_checkpoint(source)
    if adapter is not None:
        checkpoint = merge(checkpoint, adapter)
    with bytes_bar(f"{source} → {format_name or to}") as progress:
        if to == "pack":
            from octuor.ops.native import quantizer

            report = convert(
                checkpoint, out, format_name or "q4", overrides=overrides, quantize=quantizer(threads),
                progress=progress, overwrite=overwrite,
            )  # fmt: skip
        else:
            report = export(checkpoint, out, to, format_name, progress=progress, overwrite=overwrite)
    rate = report.bytes_in / report.seconds / 1e6
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(report.path),
                    "bytes_in": report.bytes_in,
                    "bytes_out": report.bytes_out,
                    "seconds": report.seconds,
                    "mb_per_s": rate,
                }
            )
        )
    else:
        print(
            f"{report.path}: {report.bytes_out / 1e9:.2f} GB from {report.bytes_in / 1e9:.2f} GB "
            f"in {report.seconds:.1f} s, {rate:.0f} MB/s read"
        )
