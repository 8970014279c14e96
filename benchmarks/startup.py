"""What starting costs: median wall times of fresh processes.

    python benchmarks/startup.py [--model MODEL] [--repeats N]

Each row is a process of its own from start to end; `python -c pass` is what of it is Python's. The first token is
that of a chat: imports, opening the model (default: the pocket model), the tokenizer, the prompt and one token.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

FIRST_TOKEN = """
import sys, octuor
model = octuor.load(sys.argv[1] or None)
answer = model.chat([{"role": "user", "content": "Hello"}], octuor.SamplingParams(temperature=0, max_tokens=1))
assert len(list(answer)) == 1
"""


def rows(model: str) -> dict[str, list[str]]:
    """Label -> command."""
    python = sys.executable
    return {
        "python -c pass": [python, "-c", "pass"],
        "import octuor": [python, "-c", "import octuor"],
        "octuor --help": [python, "-m", "octuor", "--help"],
        "import numpy": [python, "-c", "import numpy"],
        "first token of a chat": [python, "-c", FIRST_TOKEN, model],
    }


def run(command: list[str]) -> float:
    """Seconds from start to end; CalledProcessError where the command fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the table; the first run of each command warms the file cache and is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a pack, a folder or a Hub id; default: the pocket model")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, median of {options.repeats} after one warm-up\n")
    print(f"{'':24} {'median ms':>10} {'least ms':>10}")
    for label, command in rows(options.model).items():
        run(command)
        times = [1e3 * run(command) for _ in range(options.repeats)]
        print(f"{label:24} {median(times):10.0f} {min(times):10.0f}", flush=True)


if __name__ == "__main__":
    main()
