"""octuor synth: a random pack from the command line, which the other commands then run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import octuor
from octuor.checkpoint import open_checkpoint
from octuor.config import GEOMETRIES
from octuor.tokenizer import find_mistral_common_tokenizer
from tiny_models import TINY


@pytest.fixture(autouse=True)
def tiny_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A geometry beside the true ones, which take hundreds of MB a layer."""
    monkeypatch.setitem(GEOMETRIES, "tiny", TINY)


def test_synth_then_info_then_generate(tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"
    done = octuor("synth", out, "--geometry", "tiny", "--layers", 3, "--format", "q8", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert (report["path"], report["bytes"]) == (str(out), out.stat().st_size)
    assert report["mb_per_s"] == pytest.approx(report["bytes"] / report["seconds"] / 1e6)
    assert open_checkpoint(out).config == replace(TINY, n_layers=3)
    told = json.loads(octuor("info", out, "--json").out)
    assert told["tokenizer"] is None
    assert {name for part in told["parts"] for name in part["formats"]} == {"q8", "f32"}
    generated = octuor("generate", out, "--ids", "1 2 3", "--max-tokens", 5, "--seed", 0)
    assert (generated.code, len(generated.out.split())) == (0, 5)


def test_a_pack_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GEOMETRIES, "tiny", replace(TINY, vocab_size=32000))
    args = ("--geometry", "tiny", "--layers", 1, "--format", "q8", "--tokenizer", find_mistral_common_tokenizer())
    assert octuor("synth", tmp_path / "x.octuor", *args).code == 0
    assert json.loads(octuor("info", tmp_path / "x.octuor", "--json").out)["tokenizer"] == "tokenizer.model"


def test_a_seed_makes_a_file(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = octuor("synth", tmp_path / name, "--geometry", "tiny", "--seed", seed)
        assert done.code == 0
        assert done.out.startswith(f"{tmp_path / name}: 0.01 GB in ")
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] != written[2]


def test_a_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"
    out.write_bytes(b"mine")
    done = octuor("synth", out, "--geometry", "tiny")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert out.read_bytes() == b"mine"
    assert octuor("synth", out, "--geometry", "tiny", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--geometry", "gpt"], "found 'gpt'"),
        (["--geometry", "tiny", "--format", "q7"], "found 'q7'"),
        (["--geometry", "tiny", "--layers", "0"], "config.n_layers: expected a positive int, found 0"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, args: list[str], says: str) -> None:
    done = octuor("synth", tmp_path / "x.octuor", *args)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert says in done.err
    assert list(tmp_path.iterdir()) == []
