"""A tiny GGUF file changed in every way that breaks readers: cut, bits flipped, lengths that lie, pieces moved."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from checkpoint.gguf_files import Q, metadata_of, tensors_of, toy_tokenizer, write_file
from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import OctuorError
from octuor.tokenizer import open_tokenizer
from toys import random_values

TINY = ModelConfig(
    dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=32, vocab_size=266, n_experts=2,
    max_seq_len=64,
)  # fmt: skip
DATA_BYTES = 28_520  # of it; the rest is the header
HOSTILE = (0, 1, 7, 255, 2**16, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 1)
Change = tuple[str, int, int]  # what, where, with what


def tiny_file(folder: Path) -> bytes:
    """A whole file of one layer and two experts."""
    values = random_values(TINY, [9])
    metadata = metadata_of(TINY) | toy_tokenizer(TINY.vocab_size)
    return write_file(folder / "tiny.gguf", metadata, tensors_of(TINY, values), Q.Q8_0).read_bytes()


def changes(n_bytes: int) -> st.SearchStrategy[list[Change]]:
    """One to three changes, nine of ten in the header."""
    header = st.integers(0, n_bytes - DATA_BYTES)
    place = st.one_of(*[header] * 9, st.integers(0, n_bytes - 1))
    one = st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("u64"), place, st.sampled_from(HOSTILE)),
        st.tuples(st.just("u32"), place, st.sampled_from(HOSTILE)),
        st.tuples(st.just("cut"), place, st.just(0)),
        st.tuples(st.just("drop"), place, st.integers(1, 64)),
        st.tuples(st.just("repeat"), place, st.integers(1, 64)),
    )
    return st.lists(one, min_size=1, max_size=3)


def change(data: bytes, what: str, at: int, amount: int) -> bytes:
    """The bytes with one change; places beyond their end are the end."""
    at = min(at, len(data))
    if what == "flip":
        return data[:at] + bytes(byte ^ (1 << amount) for byte in data[at : at + 1]) + data[at + 1 :]
    if what in ("u64", "u32"):
        n = 8 if what == "u64" else 4
        return data[:at] + (amount % 2 ** (8 * n)).to_bytes(n, "little") + data[at + n :]
    if what == "cut":
        return data[:at]
    middle = data[at : at + amount] * (0 if what == "drop" else 2)
    return data[:at] + middle + data[at + amount :]


def read_all(path: Path) -> str:
    """Read everything that a file promises; "refused" where an error says why not."""
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names:
            weight = checkpoint.get(name)
            numbers = weight.to_f32()
            assert numbers.dtype == np.float32
            assert numbers.shape == weight.shape
        if checkpoint.tokenizer is not None:
            open_tokenizer(checkpoint.tokenizer).encode("abcd, a bag of beads")
    except OctuorError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    return "read"


def fuzz(folder: Path, n_examples: int, *, most_bytes: int | None = None) -> Counter[str]:
    """How many changed files were read and how many refused; the same files each time. Anything else is raised.

    most_bytes  memory that one file may take; None: it is not traced, which is three times as fast
    """
    data, path = tiny_file(folder), folder / "changed.gguf"
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=n_examples,
        derandomize=True,
        deadline=5000,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(changes(len(data)))
    def read(made: list[Change]) -> None:
        changed = data
        for one in made:
            changed = change(changed, *one)
        path.unlink(missing_ok=True)  # earlier mappings keep their bytes
        path.write_bytes(changed)
        if most_bytes is None:
            outcomes[read_all(path)] += 1
            return
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        outcomes[read_all(path)] += 1
        taken = tracemalloc.get_traced_memory()[1] - before
        assert taken <= most_bytes, taken

    read()
    return outcomes
