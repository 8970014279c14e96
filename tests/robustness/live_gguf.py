"""Thousands of damaged GGUF files, and what memory the worst of them takes: some minutes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from robustness.gguf_mutations import fuzz, tiny_file

N_EXAMPLES = 20_000
TIMES_THE_FILE = 30  # strings as Python holds them, the weights of one matrix as float32


def test_damaged_files_are_read_or_refused_in_little_memory(tmp_path: Path) -> None:
    n_bytes = len(tiny_file(tmp_path))
    fuzz(tmp_path, 100)  # imports and caches
    tracemalloc.start()
    try:
        outcomes = fuzz(tmp_path, N_EXAMPLES, most_bytes=TIMES_THE_FILE * n_bytes)
    finally:
        tracemalloc.stop()
    assert outcomes.total() >= N_EXAMPLES
