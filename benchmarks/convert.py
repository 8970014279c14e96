"""What converting and running a big synthetic model takes: MB/s, peak anonymous memory, tokens/s, GB/s.

    python benchmarks/convert.py [--folder DIR] [--geometry mixtral-8x7b] [--layers 8]

Writes a bf16 model of that many layers (3 GB a layer for 8x7B), converts it to q4 and generates with the result,
each with the `octuor` command, and removes both files.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL_S = 0.05


def main() -> None:
    """Run the three commands and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="a disk with room; default: the system's")
    parser.add_argument("--geometry", default="mixtral-8x7b")
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        wide, narrow = Path(folder) / "bf16.octuor", Path(folder) / "q4.octuor"
        geometry = ["--geometry", options.geometry, "--layers", str(options.layers)]
        run("synth", str(wide), *geometry, "--format", "bf16")
        run("convert", str(wide), str(narrow), "--format", "q4")
        wide.unlink()
        prompt = ["--ids", "1 733 16289 28793 22557 733 28748 16289 28793", "--max-tokens", "33", "--temperature", "0"]
        for _ in range(3):  # the first run finds a cold page cache
            run("generate", str(narrow), *prompt, "--stats")


def run(*arguments: str) -> None:
    """Run one octuor command, then print what it said and its peak anonymous memory."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "octuor", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak_kb = 0
    while process.poll() is None:
        peak_kb = max(peak_kb, anonymous_kb(process.pid))
        time.sleep(POLL_S)
    out, err = process.communicate()
    said = out.strip() if arguments[0] != "generate" else err.strip()
    print(f"{arguments[0]}: {said}")
    print(f"  {time.perf_counter() - began:.1f} s in all, peak anonymous memory {peak_kb / 2**20:.2f} GiB", flush=True)
    if process.returncode:
        sys.exit(err)


def anonymous_kb(pid: int) -> int:
    """A process's anonymous resident memory; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
