"""Checkpoints that are no packs stream too where their experts lie in files as they are; else there is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experts.conftest import CONFIG, StreamedToy
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.files import MappedFile
from octuor.errors import CheckpointError
from octuor.experts.layout import arrays, find_image
from octuor.ops.native import NativeOps
from octuor.quant import F32
from octuor.tools.export.huggingface import write_huggingface
from octuor.weights import Weight
from tiny_models import random_checkpoint
from toys import Toy


def test_odd_places_in_a_file_keep_their_bytes(tmp_path: Path) -> None:
    """Three arrays that begin anywhere, two of them in the same block, as in GGUF and safetensors files."""
    raw = np.random.default_rng(0).integers(0, 256, 60_000, dtype=np.uint8)
    (tmp_path / "x").write_bytes(raw.tobytes())
    file = MappedFile(tmp_path / "x")
    weights = [
        Weight(file.bytes[at : at + 4 * n].view(np.float32).reshape(shape), shape, F32, str(at))
        for at, n, shape in ((6002, 100, (10, 10)), (7000, 6, (2, 3)), (59_000, 250, (250,)))
    ]
    image = find_image(weights, [file])
    assert image is not None
    assert [(s.begin, s.n_bytes, s.at) for s in image.segments] == [(4096, 4096, 0), (57344, 2656, 4096)]
    memory = np.zeros(image.n_bytes, dtype=np.uint8)
    for s in image.segments:
        memory[s.at : s.at + s.n_bytes] = raw[s.begin : s.begin + s.n_bytes]
    for found, expected in zip(image.over(memory), weights, strict=True):
        assert found.name == expected.name
        assert [a.tobytes() for a in arrays(found)] == [a.tobytes() for a in arrays(expected)]


def test_arrays_that_are_in_no_file_have_no_image(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(8192))
    file = MappedFile(tmp_path / "x")
    view = file.bytes.view(np.float32).reshape(64, 32)
    assert find_image([Weight(view, (64, 32), F32)], [file]) is not None
    assert find_image([Weight(view.copy(), (64, 32), F32)], [file]) is None
    assert find_image([Weight(view.T, (32, 64), F32)], [file]) is None


def test_a_hugging_face_folder_streams(ops: NativeOps, tmp_path: Path) -> None:
    source = random_checkpoint(tokenizer=False)
    write_huggingface(tmp_path / "folder", source.config, lambda name: source.get(name).to_f32(), F32)
    checkpoint = open_checkpoint(tmp_path / "folder")
    resident = Toy(ops, checkpoint.config, {name: checkpoint.load(name) for name in checkpoint.names})
    toy = StreamedToy(ops, checkpoint, lambda shape: 2 * max(shape.sizes))
    tokens = list(range(30))
    assert np.array_equal(toy.alone(tokens), resident.alone(tokens))
    assert toy.store.stats().misses


def test_experts_that_are_in_no_file_have_to_be_converted(ops: NativeOps) -> None:
    with pytest.raises(CheckpointError, match=r"layers.0.experts.0.gate \(f32\) does not; .* `octuor convert` first"):
        StreamedToy(ops, random_checkpoint(CONFIG, tokenizer=False), lambda _: 0)
