"""Thousands of quantized folders with damaged bytes: each is refused or read, at once and in little memory.

The bytes of the weights' file and of config.json are flipped, overwritten, cut out, doubled and cut off;
tests/formats/live_mutations.py damages what lies in a sound file instead. `make test-robust`.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import pytest

from checkpoint.schemes.mutations import SCHEMES, sound
from octuor.checkpoint import open_checkpoint
from octuor.errors import OctuorError
from robustness.gguf_mutations import HOSTILE, change

N = 2000  # folders a quantization
WITHIN_S = 2.0
TIMES_THE_FILE = 30  # its header as Python holds it, the weights of one matrix as float32
KINDS = ("flip", "flip", "u64", "u32", "cut", "drop", "repeat")


def damaged(data: bytes, n_header: int, rng: random.Random) -> bytes:
    """One to three changes, most of them among the first n_header bytes."""
    for _ in range(rng.randint(1, 3)):
        what = rng.choice(KINDS)
        at = rng.randrange(n_header if rng.random() < 0.7 else len(data)) if data else 0
        amount = {"flip": rng.randrange(8), "cut": 0}.get(what, rng.randint(1, 64))
        data = change(data, what, at, rng.choice(HOSTILE) if what in ("u64", "u32") else amount)
    return data


def refusal(path: Path) -> str:
    """The error with which a folder is refused when it is opened or read; "" where it is read whole."""
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names:
            weight = checkpoint.get(name)
            assert weight.to_f32().shape == weight.shape
    except OctuorError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_damaged_bytes_are_read_or_refused_in_little_time_and_memory(scheme: str, tmp_path: Path) -> None:
    path = sound(scheme).write(tmp_path / "model")
    assert refusal(path) == ""
    files = [path / "model.safetensors", path / "config.json"]
    whole = {file: file.read_bytes() for file in files}
    rng, n_read, slowest = random.Random(scheme), 0, 0.0
    tracemalloc.start()
    try:
        for _ in range(N):
            file = files[rng.random() < 0.15]
            n_header = 8 + int.from_bytes(whole[file][:8], "little") if file == files[0] else len(whole[file])
            file.unlink()  # what is mapped keeps its bytes
            file.write_bytes(damaged(whole[file], n_header, rng))
            began = time.process_time()
            message = refusal(path)
            slowest = max(slowest, time.process_time() - began)
            assert "\n" not in message
            n_read += message == ""
            file.unlink()
            file.write_bytes(whole[file])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < n_read < N  # the damage is real, and not all of it fatal
    assert slowest < WITHIN_S
    assert peak < TIMES_THE_FILE * len(whole[files[0]]) + (16 << 20), peak
