"""The process stays within its limit from the first byte on, as the system counts it; too little is said beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import octuor
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.tools.synth import synth

CONFIG = ModelConfig(
    dim=512, n_layers=6, n_heads=8, n_kv_heads=2, head_dim=64, hidden_dim=1792, vocab_size=512, max_seq_len=2048
)
SLACK = 1.02
PROMPT = [(7 * i * i + 3) % 512 for i in range(300)]
GREEDY = octuor.SamplingParams(temperature=0, max_tokens=24)
# Opens under a limit of what it has and 60 MB; experts are 72 MB. Prints peak, limit, and the ids of an answer.
CHILD = """
import json, sys
import octuor
from octuor.api import load
from octuor.machine import resident_bytes
limit = resident_bytes() + 60_000_000
model = load(sys.argv[1], memory=limit, threads=2, context=512)
prompt = json.loads(sys.argv[2])
ids = [token.id for token in model.generate(prompt, octuor.SamplingParams(temperature=0, max_tokens=24))]
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "limit": limit, "ids": ids, "misses": model.store.stats().misses}))
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limit") / "small.octuor"
    synth(path, CONFIG, "q4")
    return path


def test_the_peak_is_within_the_limit_and_the_answer_the_same(pack: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(pack), json.dumps(PROMPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    mapped = octuor.load(pack, threads=2, context=512)
    assert found["ids"] == [token.id for token in mapped.generate(PROMPT, GREEDY)]
    assert found["misses"] > 100
    assert found["peak"] <= SLACK * found["limit"]


def test_too_little_is_an_error_with_what_is_least(pack: Path) -> None:
    with pytest.raises(RequestError, match=r"memory: expected at least .* context of 1024, found a limit of 20.00 MB"):
        octuor.load(pack, memory="20MB")
    with pytest.raises(RequestError, match="ask for a smaller context, or make a smaller pack"):
        octuor.load(pack, memory=20_000_000, context=2048)


def test_a_limit_goes_with_the_native_backend_alone(pack: Path) -> None:
    with pytest.raises(RequestError, match="found resident"):
        octuor.load(pack, memory="1GB", resident=True)
    with pytest.raises(RequestError, match="found backend reference"):
        octuor.load(pack, memory="1GB", backend="reference")


def test_amounts_are_read_as_people_write_them(pack: Path) -> None:
    with pytest.raises(RequestError, match="expected an amount such as 16GiB"):
        octuor.load(pack, memory="much")


def test_all_is_held_where_there_is_room(pack: Path) -> None:
    model = octuor.load(pack, memory="8GB")
    assert not model.is_streamed
    assert model.budget is not None
    assert model.budget.holds_all
