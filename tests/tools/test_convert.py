"""Conversion: the same numbers come out as quantizing whole weights would give, in bounded memory."""

from __future__ import annotations

import shutil
import tracemalloc
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.batch import whole
from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.model import forward, logits
from octuor.ops.reference import ReferenceOps
from octuor.quant import BF16, F16, F32, FORMATS, Format
from octuor.quant.plain import from_bf16
from octuor.tools import convert as module
from octuor.tools.convert import choose_formats, convert
from octuor.tools.export.huggingface import write_huggingface
from octuor.weights import weight_shapes

Arrays = dict[str, NDArray[np.float32]]
CONFIG = ModelConfig(
    dim=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=72, vocab_size=300, n_experts=3
)  # fmt: skip
SAME_ERROR = 0.02  # two searches that break ties their own way lose as much
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(CONFIG)}


@pytest.fixture
def source(tmp_path: Path, arrays: Arrays) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    write_huggingface(tmp_path / "hf", CONFIG, arrays.__getitem__, F32, tmp_path / "tokenizer.model")
    return tmp_path / "hf"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows, so that the toy's matrices take several."""
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 1)


def in_numpy(x: NDArray[Any], row: Format) -> NDArray[Any]:
    """The formats' definition as a quantizer."""
    return row.quantize(from_bf16(x) if x.dtype == BF16.dtype else x.astype(np.float32))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_blocks_join_to_the_whole_weight(tmp_path: Path, source: Path, arrays: Arrays, row: Format) -> None:
    alike = {"embed": row.name, "lm_head": row.name}
    report = convert(source, tmp_path / "x.octuor", row.name, overrides=alike, quantize=in_numpy)
    assert report.bytes_in == sum(x.nbytes for x in arrays.values())
    assert report.bytes_out == (tmp_path / "x.octuor").stat().st_size
    assert report.seconds > 0
    checkpoint = open_checkpoint(tmp_path / "x.octuor")
    assert checkpoint.config == CONFIG
    assert checkpoint.tokenizer_bytes() == b"pieces"
    for name, x in arrays.items():
        weight = checkpoint.get(name)
        kept = x.ndim == 1 or name.endswith("router")
        assert weight.format == (F32 if kept else row), name
        np.testing.assert_array_equal(weight.data, weight.format.quantize(x), err_msg=name)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_a_pack_is_a_source_too(tmp_path: Path, source: Path, row: Format) -> None:
    convert(source, tmp_path / "first.octuor", row.name)
    convert(tmp_path / "first.octuor", tmp_path / "same.octuor", row.name)
    assert (tmp_path / "same.octuor").read_bytes() == (tmp_path / "first.octuor").read_bytes()
    convert(tmp_path / "first.octuor", tmp_path / "wide.octuor", "f32")
    first, wide = open_checkpoint(tmp_path / "first.octuor"), open_checkpoint(tmp_path / "wide.octuor")
    for name in first.names:
        np.testing.assert_array_equal(wide.get(name).to_f32(), first.get(name).to_f32())


def test_outputs_survive_conversion(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "x.octuor", "f32")
    ops, batch, found = ReferenceOps(), whole([[1, 2, 3], [4, 5]]), []
    for path in (source, tmp_path / "x.octuor"):
        weights = open_checkpoint(path).weights(ops.put)
        found.append(logits(ops, weights, forward(ops, weights, CONFIG, batch)))
    assert found[0].std() > 0
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("name", "embed", "lm_head"), [("bf16", "bf16", "bf16"), ("q8", "q8", "q8"), ("q4", "q4", "q6"), ("q2", "q6", "q6")]
)
def test_small_parts_with_a_large_share_of_the_error_keep_more_bits(name: str, embed: str, lm_head: str) -> None:
    chosen = choose_formats(CONFIG, name, {})
    assert (chosen["embed"].name, chosen["lm_head"].name) == (embed, lm_head)
    assert chosen["layers.0.wq"].name == chosen["layers.0.experts.0.down"].name == name
    assert choose_formats(CONFIG, name, {"lm_head": "q5"})["lm_head"].name == "q5"


def test_overrides(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "x.octuor", "q4", overrides={"embed": "q8", "lm_head": "q8", "wo": "bf16"})
    checkpoint = open_checkpoint(tmp_path / "x.octuor")
    chosen = {name: checkpoint.get(name).format.name for name in checkpoint.names}
    assert (chosen["embed"], chosen["lm_head"], chosen["layers.1.wo"]) == ("q8", "q8", "bf16")
    assert (chosen["layers.1.wq"], chosen["layers.0.experts.2.down"]) == ("q4", "q4")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("q7", {}, "expected one of f32"),
        ("q4", {"embed": "q7"}, "expected one of f32"),
        ("q4", {"router": "q8"}, "found router"),
        ("q4", {"layers.0.wq": "q8"}, "found layers.0.wq"),
    ],
)
def test_unknown_formats_and_parts(
    tmp_path: Path, source: Path, name: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        convert(source, tmp_path / "x.octuor", name, overrides=overrides)
    assert not (tmp_path / "x.octuor").exists()


@pytest.mark.usefixtures("small_blocks")
def test_progress_ends_at_the_total(tmp_path: Path, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = convert(source, tmp_path / "x.octuor", "bf16", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (report.bytes_in, report.bytes_in)
    assert len(seen) > len(open_checkpoint(source).names)


@pytest.mark.parametrize("stored", [F32, F16, BF16], ids=lambda row: row.name)
@pytest.mark.parametrize("target", ["q8", "q4"])
def test_the_native_quantizer_is_the_default(tmp_path: Path, arrays: Arrays, stored: Format, target: str) -> None:
    write_huggingface(tmp_path / "hf", CONFIG, arrays.__getitem__, stored)
    convert(tmp_path / "hf", tmp_path / "native.octuor", target)
    convert(tmp_path / "hf", tmp_path / "numpy.octuor", target, quantize=in_numpy)
    native, numpy = open_checkpoint(tmp_path / "native.octuor"), open_checkpoint(tmp_path / "numpy.octuor")
    for name in native.names:
        x = stored.dequantize(stored.quantize(arrays[name]), arrays[name].shape)
        found, expected = (np.abs(each.get(name).to_f32() - x).mean() for each in (native, numpy))
        assert found == pytest.approx(expected, rel=SAME_ERROR), name


def test_the_quantizer_is_an_argument(tmp_path: Path, source: Path) -> None:
    used: list[str] = []

    def quantize(x: NDArray[Any], target: Format) -> NDArray[Any]:
        used.append(target.name)
        return target.quantize(x)

    convert(source, tmp_path / "x.octuor", "q8", quantize=quantize)
    assert set(used) == {"q8"}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("stored", "target"), [(F32, "q4"), (F32, "f32"), (BF16, "bf16"), (F16, "f16"), (F16, "q8")])
def test_weights_that_are_not_finite_are_placed(
    tmp_path: Path, arrays: Arrays, bad: float, stored: Format, target: str
) -> None:
    arrays["layers.1.experts.2.gate"][69, 5] = bad
    write_huggingface(tmp_path / "hf", CONFIG, arrays.__getitem__, stored)
    with pytest.raises(CheckpointError, match=r"layers.1.experts.2.gate: .* in row 69; is the download whole"):
        convert(tmp_path / "hf", tmp_path / "x.octuor", target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]


@pytest.mark.usefixtures("small_blocks")
def test_weights_too_large_for_f16_are_placed(tmp_path: Path, arrays: Arrays) -> None:
    arrays["embed"][200, 1] = 70000
    write_huggingface(tmp_path / "hf", CONFIG, arrays.__getitem__, F32)
    with pytest.raises(CheckpointError, match=r"embed: expected weights up to 65504 for f16, .* row 200"):
        convert(tmp_path / "hf", tmp_path / "x.octuor", "f16")


def test_an_existing_output_is_kept_unless_asked(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "x.octuor"
    out.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="expected a new file"):
        convert(source, out, "q8")
    assert out.read_bytes() == b"mine"
    convert(source, out, "q8", overwrite=True)
    assert open_checkpoint(out).get("embed").format.name == "q8"


def test_a_pack_is_converted_in_its_own_place(tmp_path: Path, source: Path, arrays: Arrays) -> None:
    out = tmp_path / "x.octuor"
    convert(source, out, "f32")
    convert(out, out, "bf16", overwrite=True)
    np.testing.assert_array_equal(open_checkpoint(out).get("embed").data, BF16.quantize(arrays["embed"]))


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))

    def must_not_run(x: NDArray[Any], _: Format) -> NDArray[Any]:
        pytest.fail(f"a matrix {x.shape} is quantized")

    with pytest.raises(CheckpointError, match="bytes free on its disk, found 0"):
        convert(source, tmp_path / "x.octuor", "q8", quantize=must_not_run)
    assert sorted(tmp_path.iterdir()) == before


def test_an_interruption_leaves_nothing(tmp_path: Path, source: Path) -> None:
    before = sorted(tmp_path.iterdir())

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "x.octuor", "bf16", progress=stop)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("target", ["f32", "q8"])
def test_memory_does_not_grow_with_the_weights(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of 36 MB (as f32) is held in blocks of 2 MB; NumPy reports its memory to tracemalloc."""
    config = ModelConfig(
        dim=256, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=128, hidden_dim=256, vocab_size=35_000, n_experts=2
    )  # fmt: skip
    shapes = dict(weight_shapes(config))
    write_huggingface(tmp_path / "hf", config, lambda name: np.ones(shapes[name], dtype=np.float32), BF16)
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 1 << 19)
    budget = 8 * 4 * module.CHUNK_WEIGHTS  # the NumPy quantizer keeps some copies of its block
    tracemalloc.start()
    try:
        convert(tmp_path / "hf", tmp_path / "x.octuor", target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < budget < config.vocab_size * config.dim * 4
