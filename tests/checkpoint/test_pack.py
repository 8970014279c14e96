"""The pack: what is written is read, laid out as docs/pack-format.md says, in every format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from octuor.batch import whole
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.pack import LINE, PAGE, PackInParts, TokenizerFile, open_pack, write_pack
from octuor.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError
from octuor.model import forward, logits
from octuor.ops.reference import ReferenceOps
from octuor.quant import F32, FORMATS, Format
from octuor.weights import Weight, build

Arrays = dict[str, NDArray[np.float32]]
TOKENIZER = TokenizerFile("tokenizer.model", b"the pieces")


def choose(arrays: Arrays, row: Format) -> dict[str, Format]:
    return {name: F32 if x.ndim == 1 or name.endswith("router") else row for name, x in arrays.items()}


def write(path: Path, config: ModelConfig, arrays: Arrays, row: Format, **options: Any) -> dict[str, Format]:
    formats = choose(arrays, row)
    write_pack(path, config, formats, lambda name: [formats[name].quantize(arrays[name])], TOKENIZER, **options)
    return formats


@pytest.fixture
def pack(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> Path:
    write(tmp_path / "toy.octuor", config, arrays, F32)
    return tmp_path / "toy.octuor"


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_format_reads_back_bit_for_bit(tmp_path: Path, config: ModelConfig, arrays: Arrays, row: Format) -> None:
    path = tmp_path / "toy.octuor"
    formats = write(path, config, arrays, row)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    assert checkpoint.kind == "octuor pack"
    assert (checkpoint.tokenizer, checkpoint.tokenizer_kind) == (b"the pieces", "tokenizer.model")
    assert checkpoint.tokenizer_bytes() == b"the pieces"
    for name, x in arrays.items():
        weight = checkpoint.get(name)
        assert (weight.format, weight.shape, weight.name) == (formats[name], x.shape, name)
        np.testing.assert_array_equal(weight.data, formats[name].quantize(x))


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_outputs_survive_the_file(tmp_path: Path, config: ModelConfig, arrays: Arrays, row: Format) -> None:
    formats = write(tmp_path / "toy.octuor", config, arrays, row)

    def held(name: str) -> Weight:
        return Weight(formats[name].quantize(arrays[name]), arrays[name].shape, formats[name], name)

    ops, batch = ReferenceOps(), whole([[3, 1, 4, 1, 5], [9, 2, 6]])
    before = build(config, held)
    after = open_pack(tmp_path / "toy.octuor").weights(ops.put)
    found = logits(ops, after, forward(ops, after, config, batch))
    assert found.std() > 0
    np.testing.assert_array_equal(found, logits(ops, before, forward(ops, before, config, batch)))


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_layout(tmp_path: Path, config: ModelConfig, arrays: Arrays, row: Format) -> None:
    path = tmp_path / "toy.octuor"
    write(path, config, arrays, row)
    file = SafetensorsFile(path)
    assert file.data_start % PAGE == 0
    assert path.stat().st_size % PAGE == 0
    for name, tensor in file.tensors.items():
        if name.startswith("_pad."):
            assert not file.get(name).any()
        else:
            assert tensor.begin % LINE == 0, name
    for n in range(config.n_layers):
        for e in range(config.n_experts):
            gate, up, down = (file.tensors[f"layers.{n}.experts.{e}.{part}"] for part in ("gate", "up", "down"))
            assert gate.begin % PAGE == 0
            assert 0 <= up.begin - gate.end < LINE
            assert 0 <= down.begin - up.end < LINE
    first_expert = min(tensor.begin for name, tensor in file.tensors.items() if ".experts." in name)
    resident = [t for name, t in file.tensors.items() if ".experts." not in name and not name.startswith("_pad.")]
    assert max(tensor.end for tensor in resident) <= first_expert


def test_the_safetensors_library_opens_it(pack: Path, config: ModelConfig, arrays: Arrays) -> None:
    with safe_open(pack, framework="np") as file:
        assert file.metadata()["format"] == "octuor-pack"
        assert file.metadata()["version"] == "1"
        assert json.loads(file.metadata()["config"]) == asdict(config)
        rows = json.loads(file.metadata()["tensors"])
        assert rows["layers.1.wk"] == {"format": "f32", "shape": [24, 40]}
        for name, x in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), x)
        assert file.get_tensor("tokenizer.model").tobytes() == b"the pieces"


def test_a_pack_by_another_name_is_known_by_its_metadata(pack: Path) -> None:
    other = pack.rename(pack.with_suffix(".safetensors"))
    assert open_checkpoint(other).kind == "octuor pack"


def test_a_pack_without_a_tokenizer(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    write_pack(tmp_path / "toy.octuor", config, choose(arrays, F32), lambda name: [arrays[name]])
    checkpoint = open_pack(tmp_path / "toy.octuor")
    assert (checkpoint.tokenizer, checkpoint.tokenizer_kind, checkpoint.tokenizer_bytes()) == (None, None, None)


def test_an_unknown_weight_is_refused(pack: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found 'layers.9.wq'"):
        open_pack(pack).get("layers.9.wq")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    def pieces(name: str) -> Iterator[NDArray[Any]]:
        if name == "layers.1.experts.0.up":
            raise KeyboardInterrupt
        yield arrays[name]

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "toy.octuor", config, choose(arrays, F32), pieces)
    assert not list(tmp_path.iterdir())


def rewritten(pack: Path, drop: str = "", **metadata: str) -> Path:
    """The same file with other metadata, and without one tensor."""
    file = SafetensorsFile(pack)
    tensors = [Tensor(t.name, t.dtype, t.shape) for t in file.tensors.values() if t.name != drop]
    out = pack.with_name("changed.octuor")
    write_safetensors(out, tensors, lambda name: [file.get(name)], file.metadata | metadata)
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, "expected pack version 1, found '2'; upgrade octuor"),
        ({"version": "one"}, "found 'one'"),
        ({"format": "pt"}, "expected metadata format 'octuor-pack', found 'pt'"),
        ({"tensors": "{}"}, "expected a format for every weight, metadata lacks 'embed'"),
        ({"tensors": "["}, "expected a format for every weight"),
        ({"tokenizer": "tekken.json"}, "metadata names 'tekken.json'"),
        ({"tokenizer": "tokenizer.json"}, "metadata names 'tokenizer.json'"),
        ({"drop": "layers.0.wv"}, r"layers.0.wv: expected F32 \[24, 40\] .* file has no such tensor"),
    ],
)
def test_refused(pack: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_pack(rewritten(pack, **changes))


def test_an_unknown_number_format_asks_for_an_upgrade(pack: Path) -> None:
    rows = json.loads(SafetensorsFile(pack).metadata["tensors"])
    rows["layers.0.wv"]["format"] = "q7"
    with pytest.raises(CheckpointError, match=r"expected one of .* found 'q7'; upgrade octuor"):
        open_pack(rewritten(pack, tensors=json.dumps(rows)))


def test_storage_that_does_not_fit_its_format_is_refused(pack: Path) -> None:
    rows = json.loads(SafetensorsFile(pack).metadata["tensors"])
    rows["layers.0.wv"]["format"] = "q8"
    message = r"layers.0.wv: expected U8 \[1, 1, 16512\] for q8 \[24, 40\], file has F32"
    with pytest.raises(CheckpointError, match=message):
        open_pack(rewritten(pack, tensors=json.dumps(rows)))


@pytest.mark.parametrize(("name", "row"), [("norm", "q8"), ("layers.0.wv", "gguf-q8_0")])
def test_a_format_that_cannot_store_the_weight_is_refused(pack: Path, name: str, row: str) -> None:
    rows = json.loads(SafetensorsFile(pack).metadata["tensors"])
    rows[name]["format"] = row
    with pytest.raises(CheckpointError, match=rf"{name}: expected a format that stores .*, metadata names {row}"):
        open_pack(rewritten(pack, tensors=json.dumps(rows)))


def test_a_config_from_the_future_is_placed(pack: Path) -> None:
    with pytest.raises(ConfigError, match=r"changed.octuor: unknown config fields"):
        open_pack(rewritten(pack, config='{"n_wheels": 4}'))


def test_a_file_that_only_has_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.octuor").write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(CheckpointError, match="expected a safetensors header"):
        open_checkpoint(tmp_path / "x.octuor")


# ---- in parts ------------------------------------------------------------------------------------


def test_parts_in_any_order_make_the_same_weights(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    formats = choose(arrays, F32)
    with PackInParts(tmp_path / "toy.octuor", config, formats, TOKENIZER) as file:
        for name in reversed(arrays):
            file.write(name, [arrays[name][:1], arrays[name][1:]])
        assert open_pack(file.partial).config == config  # it opens before it has its name
        file.note({"report": "{}"})
        file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["toy.octuor"]
    checkpoint = open_pack(tmp_path / "toy.octuor")
    assert checkpoint.tokenizer_bytes() == b"the pieces"
    assert SafetensorsFile(tmp_path / "toy.octuor").metadata["report"] == "{}"
    for name, x in arrays.items():
        np.testing.assert_array_equal(checkpoint.get(name).data, x)


def test_parts_are_kept_for_the_next_process(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    formats, path = choose(arrays, F32), tmp_path / "toy.octuor"
    with PackInParts(path, config, formats) as file:
        file.write("embed", [arrays["embed"]])
    assert not path.exists()
    with PackInParts(path, config, formats, resume=True) as file:
        assert file.resumed
        np.testing.assert_array_equal(open_pack(file.partial).get("embed").data, arrays["embed"])
    with PackInParts(path, config, formats) as file:
        assert not file.resumed
        assert not open_pack(file.partial).get("embed").data.any()
