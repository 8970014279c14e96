"""Kill -9 at ten random moments: the resumed run's losses and weights are an unbroken run's; `make test-parity`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tune.tiny_run import recipe_text, talks, write_model, write_rows

KILLS = {"lora": 4, "dropout": 3, "full": 3}
MOMENT_S = 0.6  # a step takes some ms: between two saves, in one, in a validation
METHODS = {
    "lora": '[tune]\nmodel = "MODEL"\ntargets = ["attention", "experts", "router"]\nrank = 4\n',
    "dropout": '[tune]\nmodel = "MODEL"\nrank = 4\ndropout = 0.2\n',
    "full": '[tune]\nmodel = "MODEL"\nmethod = "full"\ntargets = ["all"]\n',
}


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "octuor", "tune", str(recipe), "--out", str(out), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def lines_of(out: Path) -> list[dict[str, Any]]:
    """Metrics but for speed, which is nobody's to repeat."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


def wait_for_steps(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a step of this start is done: what comes before is the same every time."""
    metrics = out / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.is_file() else 0
    n = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
    while process.poll() is None:
        if (
            metrics.is_file()
            and metrics.stat().st_mtime_ns > before
            and metrics.read_bytes().count(b"\n") not in (0, n)
        ):
            return
        time.sleep(0.005)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_as_the_unbroken_one(method: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.octuor")
    write_rows(tmp_path / "train.jsonl", talks(40))
    write_rows(tmp_path / "valid.jsonl", talks(46)[40:])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(model, METHODS[method].replace("MODEL", str(model)), steps=120))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(recipe, whole).wait() == 0
    moments = random.Random(method)
    killed = 0
    while True:
        process = start(recipe, broken)
        if killed < KILLS[method]:
            wait_for_steps(broken, process)
            time.sleep(moments.uniform(0, MOMENT_S))
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
    assert killed == KILLS[method]
    assert lines_of(broken) == lines_of(whole)
    for name in ("state.pt", "best.pt"):
        ours, theirs = (torch.load(run / name, weights_only=True) for run in (broken, whole))
        ours, theirs = (saved.get("masters", saved) for saved in (ours, theirs))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
