"""Which targets there are: one list."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.open import open_checkpoint
from octuor.errors import FormatError
from octuor.quant import Format
from octuor.quant.base import Array
from octuor.tools.convert import ConvertReport, Progress, WeightStream
from octuor.tools.export import gguf, huggingface, mistral


@dataclass(frozen=True)
class Target:
    """Another program's kind of checkpoint.

    formats  names of the number formats that it can be written in, the usual one first
    write    stream, output, format, whether to overwrite -> bytes written
    """

    formats: tuple[str, ...]
    write: Callable[[WeightStream, Path, str, bool], int]


TARGETS: dict[str, Target] = {
    "huggingface": Target(huggingface.FORMATS, huggingface.export_huggingface),
    "mistral": Target(mistral.FORMATS, mistral.export_mistral),
    "gguf": Target(gguf.FORMATS, gguf.export_gguf),
}


def export(
    source: str | Path | Checkpoint,
    out: Path,
    target: str,
    format_name: str | None = None,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ConvertReport:
    """Write `source` for another program, weight by weight, and with it the tokenizer that it has.

    target       a name in TARGETS
    format_name  one of the target's formats; None: the usual one

    An export that is interrupted leaves nothing under the output's name. Raises FormatError on a format that the target
    has not, CheckpointError as `convert` does.
    """
    began = time.perf_counter()
    if target not in TARGETS:
        raise FormatError(f"export: expected one of {', '.join(TARGETS)}, found {target!r}")
    chosen = TARGETS[target]
    name = chosen.formats[0] if format_name is None else format_name
    if name not in chosen.formats:
        raise FormatError(f"{target}: expected a format among {', '.join(chosen.formats)}, found {name!r}")
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    stream = WeightStream(checkpoint, _no_tiles, progress)
    bytes_out = chosen.write(stream, out, name, overwrite)
    return ConvertReport(out, stream.done, bytes_out, time.perf_counter() - began)


def _no_tiles(_: Array, target: Format) -> Array:
    raise FormatError(f"export: expected a plain format, found {target.name}")
