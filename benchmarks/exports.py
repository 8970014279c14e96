"""Every target of `octuor convert` beside a plain copy of the same bytes: MB/s of source, cold, written and synced.

    python benchmarks/exports.py [--folder DIR] [--layers 3] [--rounds 2]

Draws layers of Mixtral-8x7B in bf16 (3 GB each), then copies and converts them in turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

BLOCK = 8 << 20
TARGETS = (
    ("pack", "bf16"), ("huggingface", "bf16"), ("mistral", "bf16"), ("gguf", "bf16"), ("pack", "q4"), ("gguf", "q8_0"),
)  # fmt: skip


def main() -> None:
    """Print a line for each conversion, then each target's median and its share of the copy's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="a disk with room; default: the system's")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, out = Path(folder) / "source.octuor", Path(folder) / "out"
        octuor("synth", source, "--geometry", "mixtral-8x7b", "--layers", options.layers, "--format", "bf16")
        for _ in range(options.rounds):
            rates.setdefault("plain copy", []).append(timed("plain copy", source, out, copy))
            for target, row in TARGETS:
                convert = converter(target, row)
                rates.setdefault(f"{target} {row}", []).append(timed(f"{target} {row}", source, out, convert))
    for name, found in rates.items():
        print(f"{name}: {median(found):.0f} MB/s, {median(found) / median(rates['plain copy']):.0%} of a plain copy")


def timed(name: str, source: Path, out: Path, work: Callable[[Path, Path], None]) -> float:
    """MB of source a second that `work` takes in, the source not in the page cache; out is removed."""
    forget(source)
    began = time.perf_counter()
    work(source, out)
    seconds = time.perf_counter() - began
    rate = source.stat().st_size / 1e6 / seconds
    print(f"  {name}: {seconds:.1f} s, {rate:.0f} MB/s", flush=True)
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return rate


def converter(target: str, row: str) -> Callable[[Path, Path], None]:
    """The command line's conversion to a target in a format."""
    return lambda source, out: octuor("convert", source, out, "--to", target, "--format", row)


def octuor(*arguments: object) -> None:
    """Run one octuor command; end with what it says where it fails."""
    command = [sys.executable, "-m", "octuor", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stderr)


def copy(source: Path, out: Path) -> None:
    """Read and write in blocks, then sync, as a conversion does."""
    with source.open("rb") as read, out.open("wb") as written:
        shutil.copyfileobj(read, written, BLOCK)
        written.flush()
        os.fsync(written.fileno())


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
