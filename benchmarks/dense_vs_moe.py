"""How much faster two of eight experts are than one dense model of as good answers: Mixtral 8x7B beside Llama 2 70B.

    python benchmarks/dense_vs_moe.py [--format q4] [--rounds 3] [--moe-layers 8] [--dense-layers 4]

Mixtral's authors state six times faster inference (Jiang et al. 2024, arXiv:2401.04088). Each round runs
`octuor bench` for one and then the other, in a process of its own, and scales the layers at hand to the full depth:
embedding and head once, the rest times all layers over those measured. Random weights, no download.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median
from typing import Any

MOE, DENSE = "mixtral-8x7b", "llama-2-70b"
PROMPT, ANSWER = 512, 64


def main() -> None:
    """Print each round's tokens/s at full depth, then the factors and their median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="q4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moe-layers", type=int, default=8, help="of 32; default %(default)s")
    parser.add_argument("--dense-layers", type=int, default=4, help="of 80; default %(default)s")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    common = ["--format", options.format] + (["--threads", str(options.threads)] if options.threads else [])
    factors: dict[str, list[float]] = {"prompt": [], "answer": []}
    for number in range(options.rounds):
        moe = run(MOE, options.moe_layers, common)
        dense = run(DENSE, options.dense_layers, common)
        for kind, found in factors.items():
            rates = [next(row for row in report["rows"] if row["kind"] == kind) for report in (moe, dense)]
            fast, slow = (row["full_tokens_per_s"] for row in rates)
            found.append(fast / slow)
            print(
                f"round {number + 1} {kind:6} {MOE} {fast:8.2f} tokens/s, {DENSE} {slow:8.3f}: {fast / slow:.2f}",
                flush=True,
            )
    for kind, found in factors.items():
        length = PROMPT if kind == "prompt" else ANSWER
        print(f"{kind} of {length}: factor {median(found):.2f} ({min(found):.2f} to {max(found):.2f})")


def run(geometry: str, layers: int, common: list[str]) -> dict[str, Any]:
    """One report of `octuor bench`."""
    command = [
        sys.executable, "-m", "octuor", "bench", "--geometry", geometry, "--layers", str(layers), *common,
        "--prompt", str(PROMPT), "--answer", str(ANSWER), "--batch", "1", "--repeats", "1", "--json",
    ]  # fmt: skip
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report


if __name__ == "__main__":
    main()
