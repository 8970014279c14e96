"""octuor convert: a Hugging Face folder in, a pack out, and its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import octuor
from octuor.checkpoint import open_checkpoint
from octuor.quant import F32
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.export.huggingface import write_huggingface
from tiny_models import TINY
from toys import random_values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convert") / "hf"
    write_huggingface(folder, TINY, random_values(TINY, [0]).__getitem__, F32, find_mistral_common_tokenizer())
    return folder


def test_convert_and_report(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"
    done = octuor(
        "convert", source, out, "--format", "q4", "--override", "lm_head=q8", "--override", "embed=f16", "--json"
    )
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert report["path"] == str(out)
    assert report["bytes_in"] == open_checkpoint(source).n_bytes
    assert report["bytes_out"] == out.stat().st_size
    assert report["mb_per_s"] == pytest.approx(report["bytes_in"] / report["seconds"] / 1e6)
    pack = open_checkpoint(out)
    assert pack.config == TINY
    assert pack.tokenizer_kind == "tokenizer.model"
    assert pack.tokenizer_bytes() == find_mistral_common_tokenizer().read_bytes()
    names = ("embed", "lm_head", "layers.0.wq", "layers.1.experts.2.down", "layers.0.router", "norm")
    assert [pack.get(name).format.name for name in names] == ["f16", "q8", "q4", "q4", "f32", "f32"]


def test_f32_there_and_back_changes_nothing(source: Path, tmp_path: Path) -> None:
    done = octuor("convert", source, tmp_path / "x.octuor", "--format", "f32", "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{tmp_path / 'x.octuor'}: 0.01 GB from 0.01 GB in ")
    before, after = open_checkpoint(source), open_checkpoint(tmp_path / "x.octuor")
    assert all(np.array_equal(before.get(name).to_f32(), after.get(name).to_f32()) for name in before.names)


def test_a_file_is_replaced_only_on_request(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.octuor"
    out.write_bytes(b"mine")
    done = octuor("convert", source, out)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "expected a new file" in done.err
    assert out.read_bytes() == b"mine"
    assert octuor("convert", source, out, "--overwrite").code == 0
    assert open_checkpoint(out).config == TINY


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--format", "q7"], "expected one of f32, f16, bf16, q8, q6, q5, q4, q3, q2; found 'q7'"),
        (["--override", "lm_head"], "--override: expected PART=FORMAT, found 'lm_head'"),
        (["--override", "a=b=c"], "--override: expected PART=FORMAT, found 'a=b=c'"),
        (["--override", "head=q8"], "found head"),
        (["--override", "lm_head=q7"], "found 'q7'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(source: Path, tmp_path: Path, args: list[str], says: str) -> None:
    done = octuor("convert", source, tmp_path / "x.octuor", *args)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert says in done.err
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_not_there(source: Path, tmp_path: Path) -> None:
    for args in (
        (tmp_path / "none", tmp_path / "x.octuor"),
        (source, tmp_path / "none" / "x.octuor"),
        (source, tmp_path),
    ):
        done = octuor("convert", *args)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("format_name", ["f32", "q8", "q4"])
def test_weights_that_are_not_numbers(tmp_path: Path, format_name: str) -> None:
    values = random_values(TINY, [0])
    values["layers.1.wk"][5, 3] = np.nan
    write_huggingface(tmp_path / "hf", TINY, values.__getitem__, F32)
    done = octuor("convert", tmp_path / "hf", tmp_path / "x.octuor", "--format", format_name)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "layers.1.wk" in done.err
    assert "row 5" in done.err
    assert not (tmp_path / "x.octuor").exists()


@pytest.mark.parametrize(("to", "kind"), [("huggingface", "Hugging Face"), ("mistral", "Mistral")])
def test_folders_for_other_programs(source: Path, tmp_path: Path, to: str, kind: str) -> None:
    done = octuor("convert", source, tmp_path / "x", "--to", to, "--format", "f32", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["bytes_in"] == open_checkpoint(source).n_bytes
    before, after = open_checkpoint(source), open_checkpoint(tmp_path / "x")
    assert (after.kind, after.config) == (kind, TINY)
    assert all(np.array_equal(before.get(name).to_f32(), after.get(name).to_f32()) for name in before.names)


def test_gguf(source: Path, tmp_path: Path) -> None:
    done = octuor("convert", source, tmp_path / "x.gguf", "--to", "gguf", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["bytes_out"] == (tmp_path / "x.gguf").stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "onnx"), "expected one of huggingface, mistral, gguf, found 'onnx'"),
        (("--to", "gguf", "--format", "q4"), "expected a format among bf16, f16, f32, q8_0"),
        (("--to", "mistral", "--override", "embed=q8"), "expected with --to pack alone"),
    ],
)
def test_what_no_program_reads(source: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = octuor("convert", source, tmp_path / "x", *options)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
