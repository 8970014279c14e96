"""octuor bench: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import octuor
from octuor.config import GEOMETRIES
from octuor.tools.synth import synth
from quick_bench import quicken
from tiny_models import TINY

SMALL = ("--prompt", "3,20", "--answer", 2, "--batch", "1,2", "--repeats", 1, "--threads", 1)
GEOMETRY = ("--geometry", "tiny", *SMALL)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny geometry, and benchmarks without their slow parts."""
    monkeypatch.setitem(GEOMETRIES, "tiny", TINY)
    quicken(monkeypatch)


def test_json_is_one_object_with_rows_and_limits() -> None:
    done = octuor("bench", *GEOMETRY, "--layers", 1, "--format", "q8", "--isa", "scalar", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert [(row["kind"], row["tokens"], row["batch"]) for row in report["rows"]] == [
        ("prompt", 3, 1), ("prompt", 20, 1), ("answer", 2, 1), ("answer", 2, 2),
    ]  # fmt: skip
    for row in report["rows"]:
        assert min(row["tokens_per_s"], row["gb_per_s"], row["gop_per_s"]) > 0
        assert row["tokens_per_s_min"] <= row["tokens_per_s"] <= row["tokens_per_s_max"]
        assert sum(row["ops"].values()) == pytest.approx(1)
    assert set(report["limits"]) == {"read_gb_per_s", "int8_gop_per_s", "f32_gflop_per_s", "bf16_gflop_per_s"}
    assert (report["machine"]["isa"], report["machine"]["threads"]) == ("scalar", 1)
    about = report["model"]
    assert (about["name"], about["format"], about["layers"], about["full_layers"]) == ("tiny", "q8", 1, TINY.n_layers)


def test_tables_for_people() -> None:
    done = octuor("bench", *GEOMETRY)
    assert (done.code, done.err) == (0, "")
    for text in ("tiny, 2 of 2 layers, q6+q4", "int8 2,000 GOP/s (vpdpbusd)", "prompt 20", "answers x2", "outside"):
        assert text in done.out
    assert "…" not in done.out  # everything fits 80 columns


def test_a_pack_runs_within_its_context(tmp_path: Path) -> None:
    pack = tmp_path / "x.octuor"
    synth(pack, replace(TINY, max_seq_len=10), "q4")
    report = json.loads(octuor("bench", pack, *SMALL, "--json").out)
    assert [(row["kind"], row["tokens"]) for row in report["rows"]] == [("prompt", 3), ("prompt", 10)]
    assert report["model"]["name"] == str(pack)
    assert report["model"]["first_token_s"] > 0


def test_a_limit_of_memory(tmp_path: Path) -> None:
    pack = tmp_path / "x.octuor"
    synth(pack, TINY, "q4")
    limited = json.loads(octuor("bench", pack, *SMALL, "--memory", "8GB", "--json").out)
    assert limited["model"]["experts"]["held"] == limited["model"]["experts"]["of"] == TINY.n_layers * TINY.n_experts
    assert limited["model"]["experts"]["found"] > 0
    assert {row["disk_gb_per_s"] for row in limited["rows"]} == {0.0}
    assert "8 of 8 experts in memory" in octuor("bench", pack, *SMALL, "--memory", "8GB").out


def test_answers_alone_and_prompts_alone() -> None:
    for args, kind in ((("--prompt", 0), "answer"), (("--answer", 0), "prompt")):
        rows = json.loads(octuor("bench", *GEOMETRY, *args, "--json").out)["rows"]
        assert {row["kind"] for row in rows} == {kind}


def test_a_plot_beside_the_figures(tmp_path: Path) -> None:
    assert octuor("bench", *GEOMETRY, "--plot", tmp_path / "x.svg").code == 0
    assert (tmp_path / "x.svg").stat().st_size


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--geometry", "gpt"], "found 'gpt'"),
        (["x.octuor", "--geometry", "tiny"], "expected MODEL or --geometry, found x.octuor and tiny"),
        (["--geometry", "tiny", "--memory", "1GiB"], "expected MODEL with --memory"),
        (["x.octuor", "--memory", "much"], "much"),
        (["--resident", "--memory", "1GiB"], "expected a limit or --resident"),
        (["--layers", "2"], "expected --geometry with --layers"),
        (["--geometry", "tiny", "--prompt", "a few"], "--prompt: expected whole numbers such as 16,128; found 'a few'"),
        (["--geometry", "tiny", "--prompt", "0", "--answer", "0"], "expected a prompt or an answer to measure"),
        (["--geometry", "tiny", "--isa", "sse9"], "found 'sse9'"),
        (["--geometry", "tiny", "--plot", "x.pdf"], "found x.pdf"),
    ],
)
def test_errors_are_one_line(args: list[str], says: str) -> None:
    done = octuor("bench", *args)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert says in done.err
