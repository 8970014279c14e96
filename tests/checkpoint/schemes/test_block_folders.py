"""Whole folders of bitsandbytes, HQQ and EXL2: read, run and converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint.schemes.checks import assert_reads, refusal
from checkpoint.schemes.quantized_folders import Quantized, quantize
from octuor.checkpoint import open_checkpoint
from octuor.errors import CheckpointError
from octuor.ops.reference import ReferenceOps
from octuor.tools.convert import convert
from packed_blocks import FOLDERS
from toys import Toy


@pytest.fixture(params=sorted(FOLDERS))
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def made(scheme: str, tensors: Any, settings: dict[str, Any]) -> Quantized:
    described, make = FOLDERS[scheme]
    return quantize(tensors, settings, described, make, "U8")


def test_matrices_are_read_as_they_lie(made: Quantized, tmp_path: Path) -> None:
    assert_reads(made, tmp_path / "model")


def test_folders_run_as_their_conversion_does(made: Quantized, tmp_path: Path) -> None:
    source = open_checkpoint(made.write(tmp_path / "model"))
    pack = open_checkpoint(convert(source, tmp_path / "model.octuor", "f32").path)
    logits = []
    for checkpoint in (source, pack):
        weights = {name: checkpoint.get(name) for name in checkpoint.names}
        logits.append(Toy(ReferenceOps(), checkpoint.config, weights).alone([1, 5, 9]))
    assert np.isfinite(logits[0]).all()
    assert np.array_equal(logits[0], logits[1])


def test_progress_ends_where_it_should(made: Quantized, tmp_path: Path) -> None:
    source, seen = open_checkpoint(made.write(tmp_path / "model")), [(0, 0)]
    convert(source, tmp_path / "model.octuor", "f32", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (source.n_bytes, source.n_bytes)


def test_a_missing_part_is_named(made: Quantized, tmp_path: Path) -> None:
    for name in [name for name in made.tensors if ".0.self_attn.q_proj." in name and not name.endswith(OPTIONAL)]:
        kept = {other: x for other, x in made.tensors.items() if other != name}
        error = refusal(Quantized(made.settings, kept, {}, made.byte), tmp_path / "model")
        assert "q_proj" in error, name


OPTIONAL = ("weight_format", "group_size", "compute_dtype")


def test_exl2_lies_in_numbered_files_beside_the_index_of_its_source(
    tensors: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    described, make = FOLDERS["exl2"]
    made = quantize(tensors, settings, described, make)
    path, names = tmp_path / "model", sorted(made.tensors)
    for n in (1, 2):
        part = Quantized(made.settings, {name: made.tensors[name] for name in names[n - 1 :: 2]}, {})
        part.write(path, f"output-0000{n}-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    checkpoint = open_checkpoint(path)
    wq = checkpoint.get("layers.0.wq")
    assert np.array_equal(wq.to_f32(), made.values["model.layers.0.self_attn.q_proj"])
    (path / "output-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected 2 files output-00002-of-00002.safetensors and so on, found 1"):
        open_checkpoint(path)
