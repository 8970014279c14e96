"""GGUF files, read by a few lines that follow the format's description: values, names, numbers, vocabulary."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant.plain import from_bf16, to_bf16
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.export import export
from octuor.tools.export.gguf import quantize_q8_0
from tiny_models import TINY, checkpoint_of, random_checkpoint
from tokenizer_file import tokenizer_json

SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}


class Gguf:
    """A file, as ggml's docs/gguf.md describes it."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0
        magic, version, n_tensors, n_values = self.take("<4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        self.values = {self.string(): self.value(self.take("<I")[0]) for _ in range(n_values)}
        infos = []
        for _ in range(n_tensors):
            name, n_dims = self.string(), self.take("<I")[0]
            infos.append((name, self.take(f"<{n_dims}Q"), *self.take("<IQ")))
        start = -(-self.at // 32) * 32
        assert all(at % 32 == 0 for *_, at in infos)
        self.tensors = {name: (dims, kind, start + at) for name, dims, kind, at in infos}

    def take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return found

    def string(self) -> str:
        (length,) = self.take("<Q")
        return str(self.take(f"<{length}s")[0].decode())

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.string()
        if kind == 9:
            item, length = self.take("<IQ")
            if item == 8:
                return [self.string() for _ in range(length)]
            return list(self.take(f"<{length}{SCALARS[item][1]}"))
        return self.take(SCALARS[kind])[0]

    def get(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, slowest dimension first."""
        dims, kind, at = self.tensors[name]
        n, shape = int(np.prod(dims)), tuple(reversed(dims))
        if kind == 8:
            blocks = np.frombuffer(self.data, np.dtype([("d", "<f2"), ("q", "i1", 32)]), n // 32, at)
            return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)
        dtype = {0: np.float32, 1: np.float16, 30: np.uint16}[kind]
        x = np.frombuffer(self.data, dtype, n, at)
        return (from_bf16(x) if kind == 30 else x.astype(np.float32)).reshape(shape)


SMALL = replace(TINY, vocab_size=300, hidden_dim=64)


def small(**changes: Any) -> Checkpoint:
    """A model without a tokenizer, whose vocabulary would take longer than all else."""
    return random_checkpoint(replace(SMALL, **changes), tokenizer=False)


def written(source: Checkpoint, path: Path, format_name: str) -> Gguf:
    report = export(source, path, "gguf", format_name)
    assert report.bytes_out == path.stat().st_size
    return Gguf(path)


def neighbours(x: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    order = [h + i + j for h in range(0, len(x), config.head_dim) for i in range(config.head_dim // 2)
             for j in (0, config.head_dim // 2)]  # fmt: skip
    return x[order]


@pytest.mark.parametrize(("format_name", "kind"), [("f32", 0), ("f16", 1), ("bf16", 30), ("q8_0", 8)])
def test_weights(tmp_path: Path, format_name: str, kind: int) -> None:
    config, source = SMALL, small()
    file = written(source, tmp_path / "x.gguf", format_name)
    w = {name: source.get(name).to_f32() for name in source.names}
    expected = {"token_embd": w["embed"], "output_norm": w["norm"], "output": w["lm_head"]}
    for n in range(config.n_layers):
        at = f"layers.{n}."
        expected |= {
            f"blk.{n}.attn_norm": w[at + "attention_norm"], f"blk.{n}.ffn_norm": w[at + "moe_norm"],
            f"blk.{n}.attn_q": neighbours(w[at + "wq"], config), f"blk.{n}.attn_k": neighbours(w[at + "wk"], config),
            f"blk.{n}.attn_v": w[at + "wv"], f"blk.{n}.attn_output": w[at + "wo"],
            f"blk.{n}.ffn_gate_inp": w[at + "router"],
        }  # fmt: skip
        for part in ("gate", "up", "down"):
            experts = [w[f"{at}experts.{e}.{part}"] for e in range(config.n_experts)]
            expected[f"blk.{n}.ffn_{part}_exps"] = np.stack(experts)
    assert set(file.tensors) == {f"{name}.weight" for name in expected}
    bound = {0: 0.0, 1: 2.0**-11, 30: 2.0**-8, 8: 1 / 127}[kind]
    for name, x in expected.items():
        found = file.get(f"{name}.weight")
        is_kept = x.ndim == 1 or "gate_inp" in name
        assert file.tensors[f"{name}.weight"][1] == (0 if is_kept else kind)
        assert np.abs(found - x).max() <= (0 if is_kept else bound * np.abs(x).max()), name


@pytest.mark.parametrize("changes", [{}, {"n_experts": 1, "n_experts_per_token": 1, "sliding_window": 64}])
def test_what_is_written_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = small(**changes)
    export(source, tmp_path / "x.gguf", "gguf", "f32")
    found = open_checkpoint(tmp_path / "x.gguf")
    assert found.config == source.config
    for name in source.names:
        np.testing.assert_array_equal(found.get(name).to_f32(), source.get(name).to_f32(), err_msg=name)
    export(tmp_path / "x.gguf", tmp_path / "y.gguf", "gguf", "f32")
    again = Gguf(tmp_path / "y.gguf")
    assert all(np.array_equal(again.get(name), Gguf(tmp_path / "x.gguf").get(name)) for name in again.tensors)


def test_dense_models(tmp_path: Path) -> None:
    file = written(small(n_experts=1, n_experts_per_token=1, sliding_window=64), tmp_path / "x.gguf", "f32")
    assert {"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"} < set(file.tensors)
    assert "llama.expert_count" not in file.values
    assert file.values["llama.attention.sliding_window"] == 64


def test_rows_that_are_no_multiple_of_32_stay_f16(tmp_path: Path) -> None:
    file = written(small(hidden_dim=40), tmp_path / "x.gguf", "q8_0")
    assert file.tensors["blk.0.ffn_down_exps.weight"][1] == 1
    assert file.tensors["blk.0.ffn_up_exps.weight"][1] == 8


def test_values(tmp_path: Path) -> None:
    values = written(small(), tmp_path / "x.gguf", "bf16").values
    assert values["general.architecture"] == "llama"
    assert values["general.file_type"] == 32
    for key, expected in {
        "vocab_size": 300, "block_count": 2, "context_length": 4096, "embedding_length": 32, "expert_count": 4,
        "feed_forward_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2, "expert_used_count": 2,
        "attention.key_length": 8, "rope.dimension_count": 8, "rope.freq_base": 1e6,
    }.items():  # fmt: skip
        assert values[f"llama.{key}"] == expected, key
    assert values["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert values["tokenizer.ggml.model"] == "none"
    assert "tokenizer.chat_template" not in values


def test_vocabularies(tmp_path: Path) -> None:
    """One of SentencePiece's, one of a tokenizer.json: the same, and joins in the same order of scores."""
    model = find_mistral_common_tokenizer()
    plain = random_checkpoint(replace(TINY, vocab_size=32005))
    from_json = replace(plain, tokenizer=tokenizer_json(model), tokenizer_kind="tokenizer.json")
    found = [written(source, tmp_path / f"{n}.gguf", "f16").values for n, source in enumerate((plain, from_json))]
    for each in found:
        del each["general.name"]
    values, made = ({key.removeprefix("tokenizer."): value for key, value in each.items()} for each in found)
    tokens, scores, kinds = (values[f"ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    assert len(tokens) == len(scores) == len(kinds) == 32005
    assert (tokens[:4], kinds[:4]) == (["<unk>", "<s>", "</s>", "<0x00>"], [2, 3, 3, 6])
    assert (tokens[22557], kinds[22557]) == ("▁Hello", 1)
    assert (tokens[-1], kinds[-1]) == ("[PAD32004]", 5)
    assert [values[f"ggml.{key}_token_id"] for key in ("bos", "eos", "unknown")] == [1, 2, 0]
    assert values["ggml.add_bos_token"] is True
    assert "[INST]" in values["chat_template"]
    assert {**made, "ggml.scores": None} == {**values, "ggml.scores": None}
    joined = [n for n, score in enumerate(made["ggml.scores"]) if kinds[n] == 1 and score > -1e6]
    joined.sort(key=lambda n: -made["ggml.scores"][n])
    assert len(joined) > 25_000
    assert all(scores[a] >= scores[b] for a, b in pairwise(joined))


def test_a_tokenizer_with_too_many_ids(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 31000 ids, found 32000"):
        export(random_checkpoint(replace(TINY, vocab_size=31000)), tmp_path / "x.gguf", "gguf")
    assert not list(tmp_path.iterdir())


def test_q8_0_rounds_as_ggml_does() -> None:
    rng = np.random.default_rng(0)
    x = to_f16_grid(rng.standard_normal((5, 64), dtype=np.float32))
    x[1] = 0
    x[2, :32] = np.array(
        [127, -127, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5] * 4, np.float32
    )  # a scale of 1: halves go away from zero
    blocks = quantize_q8_0(x).reshape(-1, 34)
    codes = blocks[:, 2:].view(np.int8)
    assert codes[4].tolist() == [127, -127, 1, -1, 2, -2, 3, -3] * 4
    assert not blocks[2:4].any()
    scale = np.abs(x.reshape(-1, 32)).max(axis=1) / np.float32(127)
    np.testing.assert_array_equal(blocks[:, :2].copy().view(np.float16)[:, 0], scale.astype(np.float16))
    error = np.abs(codes * scale[:, None] - x.reshape(-1, 32))
    assert (error <= scale[:, None] * np.float32(0.5001)).all()


@pytest.mark.parametrize("value", [1e-42, 1e-38, 0.0])
def test_weights_too_small_for_a_scale_are_zero(value: float) -> None:
    assert not quantize_q8_0(np.full((1, 32), value, np.float32)).reshape(34)[:2].any()


def test_weights_too_large_for_q8_0_are_named(tmp_path: Path) -> None:
    source = small()
    values = {name: source.get(name).to_f32().copy() for name in source.names}
    values["layers.1.wo"][3, 3] = 1e7
    huge = checkpoint_of(source.config, values, tokenizer=False)
    with pytest.raises(CheckpointError, match=r"layers.1.wo: expected weights up to 8319008 for q8_0"):
        export(huge, tmp_path / "x.gguf", "gguf", "q8_0")


def to_f16_grid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return from_bf16(to_bf16(x))


@pytest.mark.parametrize(
    ("target", "format_name", "message"),
    [
        ("gguf", "q4", "gguf: expected a format among bf16, f16, f32, q8_0, found 'q4'"),
        ("huggingface", "q8_0", "huggingface: expected a format among bf16, f16, f32, found 'q8_0'"),
        ("onnx", None, "expected one of huggingface, mistral, gguf, found 'onnx'"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, target: str, format_name: str | None, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        export(small(), tmp_path / "x", target, format_name)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert done <= total
        if done > total / 2:
            raise KeyboardInterrupt

    for target in ("gguf", "huggingface", "mistral"):
        with pytest.raises(KeyboardInterrupt):
            export(small(), tmp_path / "x", target, progress=stop)
        assert not list(tmp_path.iterdir()), target
