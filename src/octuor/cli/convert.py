"""octuor convert: any checkpoint to an octuor pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from octuor.cli import options


def main(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder, a pack, or a Hub id.")],
    out: Annotated[Path, typer.Argument(help="The pack to write, as in mixtral.octuor.")],
    format_name: Annotated[str, typer.Option("--format", help="bf16, f16, f32, q8, q6, q5, q4, q3 or q2.")] = "q4",
    override: Annotated[
        list[str], typer.Option(help="Another format for one part, as in lm_head=q8; repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    threads: options.Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint as an octuor pack in one number format. Router and norms stay f32."""
    from octuor.cli.progress import bytes_bar
    from octuor.errors import FormatError
    from octuor.ops.native import quantizer
    from octuor.tools.convert import convert

    if malformed := [part for part in override if part.count("=") != 1]:
        raise FormatError(f"--override: expected PART=FORMAT, found {malformed[0]!r}")
    overrides = dict(part.split("=") for part in override)
    with bytes_bar(f"{source} → {format_name}") as progress:
        report = convert(
            source, out, format_name, overrides=overrides, quantize=quantizer(threads),
            progress=progress, overwrite=overwrite,
        )  # fmt: skip
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
