"""octuor info: what it says of a model, for people and for programs, and of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from command_line import octuor
from octuor.api import POCKET
from octuor.config import ModelConfig
from octuor.machine import Machine
from octuor.ops import native
from octuor.tools.convert import convert
from tiny_models import TINY, random_checkpoint

KERNELS = {"name", "supported", "chosen"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "tiny.octuor"
    return convert(random_checkpoint(), path, "bf16", overrides={"embed": "q8"}).path


def report_of(*args: object) -> dict[str, Any]:
    done = octuor("info", *args, "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report: dict[str, Any] = json.loads(done.out)
    return report


def test_json_says_all_of_a_model(pack: Path) -> None:
    report = report_of(pack)
    assert report["source"] == str(pack)
    assert report["kind"] == "octuor pack"
    assert report["tokenizer"] == "tokenizer.model"
    assert report["config"] == asdict(TINY)
    assert ModelConfig(**report["config"]) == TINY
    embed = TINY.vocab_size * TINY.dim
    expert = 3 * TINY.dim * TINY.hidden_dim
    assert report["active_params"] == report["params"] - embed - TINY.n_layers * (TINY.n_experts - 2) * expert
    f32 = TINY.n_layers * (2 + TINY.n_experts) * TINY.dim + TINY.dim  # norms and routers
    parts = {row["name"]: row for row in report["parts"]}
    assert parts["embedding"]["formats"] == {"q8": embed}
    assert parts["norms"]["n_weights"] + parts["router"]["n_weights"] == f32
    assert parts["router"]["bits"] == 32
    assert parts["experts gate, up"]["formats"] == {"bf16": 2 * TINY.n_layers * TINY.n_experts * expert // 3}
    assert sum(row["n_weights"] for row in parts.values()) == report["params"]
    assert report["weight_bytes"] == sum(row["n_bytes"] for row in parts.values())
    assert report["odd"] == []
    per_token = 2 * 2 * TINY.n_layers * TINY.n_kv_heads * TINY.head_dim  # keys and values, f16
    assert report["cache_bytes_per_token"] == per_token
    assert report["cache_bytes_full"] == per_token * TINY.max_seq_len


def test_json_says_what_the_machine_has(pack: Path) -> None:
    machine = report_of(pack)["machine"]
    assert machine["cpu"]
    assert 1 <= machine["threads"] <= machine["performance_cores"] <= machine["cores"] <= machine["cpus"]
    assert machine["threads_reason"]
    assert sum(map(len, machine["numa_nodes"])) == machine["cpus"]
    assert machine["quota"] is None or machine["quota"] > 0
    assert all(isinstance(feature, str) for feature in machine["features"])
    assert all(set(row) == KERNELS for row in machine["kernels"])
    chosen = [row for row in machine["kernels"] if row["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["supported"]


def test_a_forced_instruction_set_shows(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [row["name"] for row in report_of(pack)["machine"]["kernels"] if row["supported"]]:
        monkeypatch.setenv("OCTUOR_ISA", name)
        assert [row["name"] for row in report_of(pack)["machine"]["kernels"] if row["chosen"]] == [name]
    monkeypatch.setenv("OCTUOR_ISA", "abacus")
    done = octuor("info", pack)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "found 'abacus'" in done.err


def test_the_page_for_people(pack: Path) -> None:
    done = octuor("info", pack)
    assert (done.code, done.err) == (0, "")
    for wanted in (
        "Model",
        "Memory",
        "Machine",
        "4 experts, 2 a token",
        "4096 tokens, vocabulary 32000",
        "bf16",
        "(chosen)",
        "CPUs usable",
    ):
        assert wanted in done.out


def test_nodes_and_a_quota_show_where_there_are_any(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Machine((0, 1, 2, 3), (0, 2), (0, 2), ((0, 1), (2, 3)), 1.5, 2, "one a physical core")
    monkeypatch.setattr(native, "read_machine", lambda: found)
    page = " ".join(octuor("info", pack).out.split())
    assert "2 physical, 2 of the fastest kind, 4 CPUs usable, in 2 NUMA nodes, time for 1.5 of them" in page
    assert "threads 2: one a physical core" in page


def test_no_model_is_the_pocket_model() -> None:
    report = report_of()
    assert report["source"] == str(POCKET)
    assert (report["config"]["n_experts"], report["config"]["n_experts_per_token"]) == (8, 2)
    assert report["weight_bytes"] < POCKET.stat().st_size


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model", encoding="utf-8")
    (tmp_path / "torn.octuor").write_bytes(b"\x07\0\0")
    for name in ("notes.txt", "torn.octuor", "none.octuor", ""):
        done = octuor("info", tmp_path / name)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert done.err.startswith("octuor: ")
