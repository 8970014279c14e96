"""Streamed experts give what resident ones give, bit for bit, with any pool; failures are errors and never hang."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from experts.conftest import CONFIG, StreamedToy
from octuor.batch import step
from octuor.checkpoint import open_checkpoint
from octuor.errors import CheckpointError
from octuor.ops.native import NativeOps
from toys import Toy

WITHIN_S = 20.0
POOLS = [1, 2, 3, 5, 8, 15, 16]  # of the largest experts; there are 16


def streamed(ops: NativeOps, path: Path, n: int) -> StreamedToy:
    return StreamedToy(ops, open_checkpoint(path), lambda shape: n * max(shape.sizes))


@pytest.mark.parametrize("n", POOLS)
def test_prompts_and_answers_are_those_of_the_resident_model(
    n: int, ops: NativeOps, mixed_pack: Path, resident: Toy, ids: NDArray[np.int64]
) -> None:
    toy = streamed(ops, mixed_pack, n)
    for tokens in (ids[:1], ids[:2], ids[:33], ids):
        assert np.array_equal(toy.alone(list(tokens)), resident.alone(list(tokens)))
    caches = [toy.cache(64), resident.cache(64)]
    assert toy.greedy(caches[0], [1, 2, 3], 24) == resident.greedy(caches[1], [1, 2, 3], 24)
    stats = toy.store.stats()
    assert stats.pool_bytes <= stats.limit_bytes
    assert stats.hits
    if n < 16:
        assert stats.misses


@pytest.mark.parametrize("n", [1, 3, 9])
def test_batches_are_those_of_the_resident_model(n: int, ops: NativeOps, mixed_pack: Path, resident: Toy) -> None:
    toy = streamed(ops, mixed_pack, n)
    found = []
    for model in (toy, resident):
        cache = model.cache(512)
        sequences = [cache.new() for _ in range(5)]
        rows = [model.logits(step(cache, [(s, range(i, i + 4 + i)) for i, s in enumerate(sequences)]))]
        for token in range(6):
            work = [(s, [token + i]) for i, s in enumerate(sequences[:4])]
            rows.append(model.logits(step(cache, [*work, (sequences[4], [1, 2, 3])])))
        found.append(np.concatenate(rows))
    assert np.array_equal(found[0], found[1])


def test_a_pool_that_holds_all_reads_each_expert_once(ops: NativeOps, mixed_pack: Path, ids: NDArray[np.int64]) -> None:
    toy = streamed(ops, mixed_pack, 16)
    for _ in range(3):
        toy.alone(list(ids))
    stats = toy.store.stats()
    assert stats.held == (4, 4, 4, 4)
    assert stats.read_bytes <= sum(slot.image.n_bytes for slot in toy.store._all)


def test_a_prompt_reads_each_missing_expert_once(ops: NativeOps, mixed_pack: Path, ids: NDArray[np.int64]) -> None:
    """What is in memory at first and still to come is not pushed out by what has had its turn."""
    toy = streamed(ops, mixed_pack, 8)
    toy.alone(list(ids))
    before = toy.store.stats()
    toy.alone(list(ids))
    after = toy.store.stats()
    most = max(slot.room for slot in toy.store._all)
    assert after.read_bytes - before.read_bytes <= (16 - 8 + 3) * most


def test_who_is_in_memory_is_told_expert_by_expert(ops: NativeOps, mixed_pack: Path, ids: NDArray[np.int64]) -> None:
    toy = streamed(ops, mixed_pack, 5)
    toy.alone(list(ids))
    wait_until(lambda: all(slot.job is None for slot in toy.store._all))
    resident, sizes = toy.store.residency()
    stats = toy.store.stats()
    assert resident.shape == sizes.shape == (4, 4)
    assert tuple(resident.sum(axis=1)) == stats.held
    assert 0 < sizes[resident].sum() == stats.pool_bytes
    assert sizes.tolist() == [[slot.room for slot in row] for row in toy.store._slots]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_threads_share_a_store(ops: NativeOps, mixed_pack: Path, resident: Toy, ids: NDArray[np.int64]) -> None:
    toy = streamed(ops, mixed_pack, 1)
    expected = [resident.alone(list(ids[i : i + 40])) for i in range(4)]
    found: dict[int, object] = {}

    def run(i: int) -> None:
        for _ in range(3):
            found[i] = toy.alone(list(ids[i : i + 40]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert not any(thread.is_alive() for thread in threads)
    assert all(np.array_equal(found[i], expected[i]) for i in range(4))  # type: ignore[arg-type]


def test_a_file_that_shrinks_is_an_error_and_may_be_mended(
    ops: NativeOps, mixed_pack: Path, resident: Toy, tmp_path: Path
) -> None:
    path = tmp_path / "shrinks.octuor"
    whole = mixed_pack.read_bytes()
    path.write_bytes(whole)
    toy = streamed(ops, path, 1)
    toy.alone([1, 2, 3])
    with path.open("r+b") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(CheckpointError, match=r"shrinks.octuor: cannot be read .*shorter"):
        toy.alone(list(range(40)))
    with path.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(whole[len(whole) // 2 :])
    assert np.array_equal(toy.alone([1, 2, 3]), resident.alone([1, 2, 3]))


def test_threads_end_with_the_model(ops: NativeOps, mixed_pack: Path) -> None:
    def readers() -> int:
        return sum(thread.name == "octuor-reader" for thread in threading.enumerate())

    gc.collect()
    before = readers()
    toy = streamed(ops, mixed_pack, 3)
    toy.alone([1, 2, 3])
    assert readers() > before
    del toy
    until = time.monotonic() + WITHIN_S
    while readers() > before and time.monotonic() < until:
        gc.collect()
    assert readers() == before


def test_only_held_experts_can_be_had(ops: NativeOps, mixed_pack: Path) -> None:
    toy = streamed(ops, mixed_pack, 2)
    experts = toy.weights.layers[1].experts
    assert len(experts) == CONFIG.n_experts
    with pytest.raises(AssertionError, match="expert 0 of layer 1 is not held"):
        experts[0]
