"""`octuor generate --memory X` in a control group of X and 2 %: never killed, the same answer; `make test-robust`.

Needs to make control groups: root, and a writable /sys/fs/cgroup.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import environment, program
from memory_group import MemoryGroup, memory_group
from octuor.tools.synth import synth

SLACK = 1.02
LAYERS = 3  # of 8x7B: 2.6 GB
SHARES = (1.0, 0.7, 0.5, 0.3)
IDS = " ".join(str((37 * n * n + 11) % 32000) for n in range(400))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("memory") / "layers.octuor"
    synth(path, "mixtral-8x7b", "q4", n_layers=LAYERS)
    yield path
    path.unlink()


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def generate(pack: Path, group: MemoryGroup | None, *options: str) -> list[int]:
    forget(pack)
    words = [
        "generate",
        str(pack),
        "--ids",
        IDS,
        "--max-tokens",
        "12",
        "--temperature",
        "0",
        "--context",
        "1024",
        "--json",
    ]
    done = subprocess.run(
        [*program(), *words, *options], capture_output=True, text=True, check=False, env=environment(),
        preexec_fn=None if group is None else group.join,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)["ids"]


@pytest.fixture(scope="module")
def expected(pack: Path) -> list[int]:
    """What the mapped model answers, without a limit."""
    return generate(pack, None)


@pytest.mark.parametrize("share", SHARES)
def test_it_is_never_killed(share: float, pack: Path, expected: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    limit = int(share * pack.stat().st_size)
    with memory_group(int(SLACK * limit)) as group:
        found = generate(pack, group, "--memory", str(limit))
        peak = group.peak()
    with capsys.disabled():
        print(f"\n{share:.0%} of {pack.stat().st_size / 1e9:.2f} GB: peak {peak / 1e9:.3f} GB of {limit / 1e9:.3f}")
    assert found == expected
    assert peak <= SLACK * limit
