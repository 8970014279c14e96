"""An evaluation that is killed outright goes on where it was, to the same figures."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from command_line import program

TASKS = "passkey,bold,perplexity"
GROUPS = {"someone": {"A": [f"The {n}th of them said that " for n in range(40)]}}


def command(folder: Path, out: Path) -> list[str]:
    return program(
        "eval", "--tasks", TASKS, "--data", folder, "--lexicon", folder / "words.tsv", "--longest", 300,
        "--context", 512, "--out", out, "--json",
    )  # fmt: skip


def documents(out: Path) -> list[Any]:
    return [task["documents"] for task in json.loads((out / "result.json").read_text())["tasks"]]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bold_test.json").write_text(json.dumps(GROUPS))
    (tmp_path / "words.tsv").write_text("good\t2\nbad\t-2\n")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(tmp_path, whole), check=True, capture_output=True)
    n_all = len((whole / "journal.jsonl").read_text().splitlines())
    n_seen = 0
    for share in (0.2, 0.6):
        process = subprocess.Popen(command(tmp_path, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None:
            time.sleep(0.01)
            journal = killed / "journal.jsonl"
            n_seen = len(journal.read_bytes().splitlines()) if journal.exists() else 0
            if n_seen > share * n_all:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    done = subprocess.run(command(tmp_path, killed), check=True, capture_output=True)
    assert documents(killed) == documents(whole)
    assert json.loads(done.stdout)["run"]["from_journal"] >= 0.2 * n_all
