"""`octuor chat --memory X` and `generate` in a control group of X and 2 %: never killed, the same answers; `make
test-robust`.

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
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.synth import synth

SLACK = 1.02
LAYERS = 3  # of 8x7B: 2.6 GB
SHARES = (1.0, 0.7, 0.5, 0.3)
IDS = " ".join(str((37 * n * n + 11) % 32000) for n in range(400))
TALK = "Tell me of the sea.\nWhat lives in it?\n" + "And then? " * 60 + "\n"
COMMON = ("--max-tokens", "12", "--temperature", "0", "--context", "1024")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("memory") / "layers.octuor"
    synth(path, "mixtral-8x7b", "q4", n_layers=LAYERS, tokenizer=find_mistral_common_tokenizer())
    yield path
    path.unlink()


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def generate(pack: Path, group: MemoryGroup | None, *options: str) -> str:
    """The ids of an answer to a long prompt."""
    words = ("generate", str(pack), "--ids", IDS, "--json")
    return json.dumps(json.loads(run(pack, group, *words, *COMMON, *options))["ids"])


def chat(pack: Path, group: MemoryGroup | None, *options: str) -> str:
    """Answers to three messages, as they are printed."""
    return run(pack, group, "chat", str(pack), *COMMON, *options, stdin=TALK)


COMMANDS = {"generate": generate, "chat": chat}


def run(pack: Path, group: MemoryGroup | None, *words: str, stdin: str = "") -> str:
    forget(pack)
    done = subprocess.run(
        [*program(), *words], input=stdin, capture_output=True, text=True, check=False, env=environment(),
        preexec_fn=None if group is None else group.join,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def expected(pack: Path) -> dict[str, str]:
    """What the mapped model answers, without a limit."""
    found = {name: command(pack, None) for name, command in COMMANDS.items()}
    assert len(found["chat"].splitlines()) >= TALK.count("\n")
    return found


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_never_killed(
    name: str, share: float, pack: Path, expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    limit = int(share * pack.stat().st_size)
    with memory_group(int(SLACK * limit)) as group:
        found = COMMANDS[name](pack, group, "--memory", str(limit))
        peak = group.peak()
    with capsys.disabled():
        print(
            f"\n{name}, {share:.0%} of {pack.stat().st_size / 1e9:.2f} GB: peak {peak / 1e9:.3f} of {limit / 1e9:.3f}"
        )
    assert found == expected[name]
    assert peak <= SLACK * limit
