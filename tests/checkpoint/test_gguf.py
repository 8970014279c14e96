"""Files of toy mixtures in every layout, written by llama.cpp's Python package: all weights and logits are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint.gguf_files import DENSE, TOY, Q, metadata_of, tensors_of, toy_tokenizer, write_file
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.files import drop_pages
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, OctuorError
from octuor.ops.reference import ReferenceOps
from octuor.quant import BF16, F16, F32
from octuor.tools.convert import convert
from toys import Toy, leaves, random_values

TOKENS = [1, 5, 70, 299, 8]
VALUES = random_values(TOY, [3])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the toy: write(tensors, kind, **metadata to change, None to leave out)."""

    def make(tensors: Any = None, kind: Q = Q.F32, *, name: str = "toy.gguf", **changes: Any) -> Path:
        metadata: dict[str, Any] = metadata_of(TOY) | toy_tokenizer(TOY.vocab_size)
        metadata |= {key.replace("__", "."): value for key, value in changes.items()}
        present = {key: value for key, value in metadata.items() if value is not None}
        return write_file(tmp_path / name, present, tensors_of(TOY, VALUES) if tensors is None else tensors, kind)

    return make


def assert_same(checkpoint: Checkpoint, values: Any = VALUES) -> None:
    assert set(checkpoint.names) == set(values)
    for name, x in values.items():
        np.testing.assert_array_equal(checkpoint.get(name).to_f32(), x, err_msg=name)


def logits(checkpoint: Checkpoint) -> NDArray[np.float32]:
    weights = {name: checkpoint.get(name) for name in checkpoint.names}
    return Toy(ReferenceOps(), checkpoint.config, weights).alone(TOKENS)


def test_a_file_is_the_model_it_was_made_of(write: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(write())
    assert checkpoint.config == TOY
    assert checkpoint.kind == "GGUF"
    assert checkpoint.tokenizer_kind == "tokenizer.model"
    assert_same(checkpoint)
    np.testing.assert_array_equal(logits(checkpoint), Toy(ReferenceOps(), TOY, leaves(VALUES)).alone(TOKENS))


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "an expert a tensor"])
@pytest.mark.parametrize("kind", [Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0], ids=lambda kind: kind.name)
def test_layouts_differ_in_nothing_but_names(write: Callable[..., Path], kind: Q, merged: bool) -> None:
    checkpoint = open_checkpoint(write(tensors_of(TOY, VALUES, merged=merged), kind))
    for name, x in VALUES.items():
        weight = checkpoint.get(name)
        assert np.shares_memory(weight.data, checkpoint.files[0].bytes), name
        is_plain = x.ndim == 1 or name.endswith("router")
        error = {Q.F16: 5e-4, Q.BF16: 4e-3, Q.Q8_0: 0.006, Q.Q4_0: 0.1}[kind] * (0 if is_plain else np.abs(x).max())
        np.testing.assert_allclose(weight.to_f32(), x, atol=float(error), rtol=0, err_msg=name)
        ours = {Q.F16: F16, Q.BF16: BF16}.get(kind)
        if ours is not None and not is_plain and not name.endswith(("wq", "wk")):
            assert weight.format == ours
        if is_plain:
            assert weight.format == F32


def test_dense_models(tmp_path: Path) -> None:
    values = random_values(DENSE, [4])
    path = write_file(tmp_path / "dense.gguf", metadata_of(DENSE), tensors_of(DENSE, values))
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == DENSE
    assert checkpoint.tokenizer is None
    assert checkpoint.tokenizer_kind is None
    assert_same(checkpoint, values)


def test_models_of_the_newer_architecture(tmp_path: Path) -> None:
    metadata = {key.replace("llama.", "mistral3."): value for key, value in metadata_of(TOY).items()}
    path = write_file(tmp_path / "x.gguf", metadata | {"general.architecture": "mistral3"}, tensors_of(TOY, VALUES))
    assert open_checkpoint(path).config == TOY
    assert_same(open_checkpoint(path))


def test_fused_matrices(write: Callable[..., Path]) -> None:
    tensors = tensors_of(TOY, VALUES)
    for n in range(TOY.n_layers):
        at = f"blk.{n}."
        parts = [tensors.pop(f"{at}attn_{letter}.weight") for letter in "qkv"]
        tensors[at + "attn_qkv.weight"] = np.concatenate(parts)
        gate, up = (tensors.pop(f"{at}ffn_{part}_exps.weight") for part in ("gate", "up"))
        tensors[at + "ffn_gate_up_exps.weight"] = np.concatenate([gate, up], axis=1)
    assert_same(open_checkpoint(write(tensors)))


def test_a_tied_head_is_the_embedding(write: Callable[..., Path]) -> None:
    tensors = tensors_of(TOY, VALUES)
    del tensors["output.weight"]
    assert_same(open_checkpoint(write(tensors)), VALUES | {"lm_head": VALUES["embed"]})


def test_any_shard_opens_all(tmp_path: Path) -> None:
    first = write_file(tmp_path / "toy.gguf", metadata_of(TOY), tensors_of(TOY, VALUES), shard_tensors=7)
    shards = sorted(tmp_path.iterdir())
    assert len(shards) > 2
    for path in shards:
        checkpoint = open_checkpoint(path)
        assert_same(checkpoint)
        assert [file.path for file in checkpoint.files] == shards
    second = shards[1].rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match=r"1 are missing \(toy-00002-of-"):
        open_checkpoint(first)
    with pytest.raises(CheckpointError, match="is one of 4 shards"):
        open_checkpoint(second)
    shards[1].write_bytes(shards[2].read_bytes())
    with pytest.raises(CheckpointError, match="expected shard 1 of"):
        open_checkpoint(first)


def test_files_are_known_by_their_first_bytes(write: Callable[..., Path]) -> None:
    path = write()
    assert_same(open_checkpoint(path.rename(path.with_name("sha256-0123"))))


def test_opening_reads_no_weights(write: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(write(kind=Q.Q8_0))
    assert checkpoint.n_bytes < checkpoint.source.stat().st_size
    for name in checkpoint.names:
        drop_pages(checkpoint.get(name).data)  # of a view in another order, too
    assert np.isfinite(logits(checkpoint)).all()


@pytest.mark.parametrize("window", [0, 32])
def test_a_sliding_window_is_taken_where_given(write: Callable[..., Path], window: int) -> None:
    assert open_checkpoint(write(llama__attention__sliding_window=window)).config.sliding_window == (window or None)


def test_what_metadata_leaves_out(write: Callable[..., Path]) -> None:
    left_out = dict.fromkeys(
        ("vocab_size", "attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count")
    )
    changes: dict[str, Any] = {f"llama__{key.replace('.', '__')}": None for key in left_out}
    assert open_checkpoint(write(**changes)).config == ModelConfig(**{**vars(TOY), "rope_theta": 1e4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "gemma2"}, "expected general.architecture llama or mistral3, found 'gemma2'"),
        ({"llama__rope__scaling__type": "yarn"}, "found 'yarn' in llama.rope.scaling.type"),
        ({"llama__rope__scaling__factor": 4.0}, "expected no llama.rope.scaling.factor, found 4.0"),
        ({"llama__block_count": None}, "expected llama.block_count in the metadata"),
        ({"llama__block_count": 3}, "expected a tensor blk.2.attn_norm.weight"),
        ({"llama__block_count": 2**31}, "llama.block_count up to 512"),
        ({"llama__block_count": 1}, "found also blk.1"),
        ({"llama__expert_count": 4}, "layers.0.router: expected [4, 64], file has [3, 64]"),
        ({"llama__expert_count": 513}, "llama.expert_count up to 512"),
        ({"llama__expert_used_count": None}, "expected llama.expert_used_count"),
        ({"llama__expert_used_count": 4}, "config.n_experts_per_token"),
        ({"llama__attention__head_count": 0}, "config.n_heads"),
        ({"llama__attention__head_count": [4, 5]}, "expected one whole number as llama.attention.head_count"),
        ({"llama__attention__value_length": 8}, "attention.value_length of 16"),
        ({"llama__feed_forward_length": 95}, "layers.0.experts.0.gate: expected [3, 95, 64]"),
        ({"llama__attention__layer_norm_rms_epsilon": "small"}, "expected a number as llama.attention.layer_norm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_would_be_computed_wrongly_are_refused(
    write: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OctuorError) as caught:
        open_checkpoint(write(**changes))
    assert message in str(caught.value)
    assert "toy.gguf" in str(caught.value)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.1.attn_q_norm.weight", "blk.0.ffn_gate_exps.scale"])
def test_weights_that_we_do_not_know_are_refused(write: Callable[..., Path], name: str) -> None:
    tensors = tensors_of(TOY, VALUES) | {name: np.ones(64, dtype=np.float32)}
    with pytest.raises(CheckpointError, match=f"found also {name}"):
        open_checkpoint(write(tensors))


def test_rope_factors_may_be_one(write: Callable[..., Path]) -> None:
    tensors = tensors_of(TOY, VALUES) | {"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    assert_same(open_checkpoint(write(tensors)))
    tensors["rope_freqs.weight"][3] = 8
    with pytest.raises(CheckpointError, match=r"found factors \(rope_freqs.weight\)"):
        open_checkpoint(write(tensors))


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_k.weight", "blk.1.ffn_up_exps.weight"])
def test_a_weight_that_is_missing_is_named(write: Callable[..., Path], name: str) -> None:
    tensors = tensors_of(TOY, VALUES)
    del tensors[name]
    with pytest.raises(CheckpointError, match=f"expected a tensor {name}"):
        open_checkpoint(write(tensors))


def test_converted_to_a_pack_the_model_is_the_same(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(kind=Q.Q8_0)
    convert(path, tmp_path / "toy.octuor", "f32")
    source, pack = open_checkpoint(path), open_checkpoint(tmp_path / "toy.octuor")
    assert pack.tokenizer_bytes() == source.tokenizer_bytes()
    assert_same(pack, {name: source.get(name).to_f32() for name in source.names})
