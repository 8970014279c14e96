"""GGUF files of every type that llama.cpp writes: its dequantizers' numbers bit for bit, its logits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from formats.samples import our_logits, write_samples
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.gguf_file import GgufFile
from octuor.quant.gguf import TYPES
from octuor.tools.convert import convert
from toys import relative_error

LOGIT_TOLERANCE = 1e-5  # float32 sums in another order
INT8_TOLERANCE = 0.05  # llama.cpp rounds activations to 8 bits, and a token may go to another expert
NOT_WRITTEN = {"gguf-q8_k", "gguf-nvfp4", "gguf-q2_0"}  # tests/quant/gguf has blocks of these


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = write_samples("llama_cpp", tmp_path_factory.mktemp("llama_cpp"))
    return sorted(path.parent for path in folder.glob("*/model.gguf"))


def test_weights_are_llama_cpps_bit_for_bit(samples: list[Path]) -> None:
    found: set[str] = set()
    for sample in samples:
        file, digests = GgufFile(sample / "model.gguf"), json.loads((sample / "digests.json").read_text())
        assert set(file.tensors) == set(digests)
        for name, entry in file.tensors.items():
            numbers = entry.blocks.to_f32(file.get(name), {}, entry.shape)
            assert hashlib.sha256(numbers.tobytes()).hexdigest() == digests[name], (sample.name, name)
            found.add(entry.blocks.name)
    assert found == {row.name for row in TYPES.values()} - NOT_WRITTEN


def test_logits_are_llama_cpps(samples: list[Path]) -> None:
    for sample in samples:
        tokens = np.load(sample.parent / "tokens.npy").tolist()
        logits = our_logits(open_checkpoint(sample / "model.gguf"), tokens)
        assert relative_error(logits, np.load(sample / "logits.npy")) <= LOGIT_TOLERANCE, sample.name
        own = np.load(sample / "own_logits.npy")
        assert np.median(np.abs(logits - own)) <= INT8_TOLERANCE * np.abs(own).max(), sample.name


def test_a_converted_file_keeps_its_weights(samples: list[Path], tmp_path: Path) -> None:
    sample = next(path for path in samples if path.name == "q4_k_m-pocket")
    source = open_checkpoint(sample / "model.gguf")
    pack = open_checkpoint(convert(source, tmp_path / "whole.octuor", "f32").path)
    for name in source.names:
        np.testing.assert_array_equal(pack.get(name).to_f32(), source.get(name).to_f32(), err_msg=name)
