"""PyTorch's files with bytes changed, and what must hold of all of them."""

from __future__ import annotations

import random
from pathlib import Path

from octuor.checkpoint.torch_file import TorchFile
from octuor.errors import CheckpointError

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("R"), ord("("), ord("t"), ord("q"), ord("h"), ord("c"))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits turned over, bytes replaced, pieces cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(out)), rng.choice((1, 2, 4, 8, 30, 200))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice(INTERESTING)
            case 2:
                out[at : at + length] = rng.randbytes(length)[: len(out) - at]
            case 3 if len(out) > length + 1:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case _:
                to = rng.randrange(len(out))
                out[to : to + length] = out[at : at + length]
    return bytes(out)


def open_and_read(data: bytes, path: Path) -> bool:
    """Whether a file can be opened; if so all of its numbers are read. AssertionError for numbers out of nowhere."""
    path.write_bytes(data)
    try:
        file = TorchFile(path)
    except CheckpointError:
        return False
    for name, entry in file.tensors.items():
        found = file.get(name)
        assert found.shape == entry.shape
        assert found.nbytes <= len(data)
        found.copy()
    return True
