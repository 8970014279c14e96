"""Files against the programs they belong to: PyTorch, transformers, mistral-common, gguf (`make test-parity`)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.mistral import neighbours_from_halves
from octuor.checkpoint.mistral import places_of as mistral_places
from octuor.quant import BF16, F32
from octuor.quant.plain import from_bf16
from octuor.tokenizer import encode_chat, find_mistral_common_tokenizer, open_tokenizer
from octuor.tools.export import export
from octuor.tools.export.huggingface import write_folder
from octuor.weights import weight_shapes
from parity.checks import LOGIT_TOLERANCE
from tiny_models import TINY, checkpoint_of
from toys import Toy, make_backend, random_values, relative_error

Tensors = dict[str, torch.Tensor]
VALUES = random_values(TINY, [3])
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello  there, 你好"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": " Bye </s>"},
]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def mistral_state() -> Tensors:
    """The toy as mistral-inference's own modules name it, in bfloat16."""
    state = {}
    for name, shape in weight_shapes(TINY):
        x = VALUES[name]
        if name.endswith((".wq", ".wk")):
            x = neighbours_from_halves(x, TINY.head_dim)
        state[mistral_places(name, shape, TINY)[0].tensor] = torch.from_numpy(x).bfloat16()
    return state


def stacked(state: Tensors) -> Tensors:
    """The same with all experts of a layer in one tensor, as megablocks' modules keep them."""
    out = {
        name.replace("feed_forward.gate", "block_sparse_moe.gate"): x
        for name, x in state.items()
        if ".experts." not in name
    }
    for n in range(TINY.n_layers):
        for w in ("w1", "w2", "w3"):
            experts = [state[f"layers.{n}.feed_forward.experts.{e}.{w}.weight"] for e in range(TINY.n_experts)]
            out[f"layers.{n}.block_sparse_moe.{w}"] = torch.cat([x.T if w == "w2" else x for x in experts])
    return out


def params() -> dict[str, Any]:
    return {
        "dim": TINY.dim, "n_layers": TINY.n_layers, "head_dim": TINY.head_dim, "hidden_dim": TINY.hidden_dim,
        "n_heads": TINY.n_heads, "n_kv_heads": TINY.n_kv_heads, "norm_eps": 1e-5, "vocab_size": TINY.vocab_size,
        "max_seq_len": TINY.max_seq_len, "moe": {"num_experts_per_tok": 2, "num_experts": TINY.n_experts},
    }  # fmt: skip


def assert_holds(path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(path)
    assert (checkpoint.kind, checkpoint.config) == (kind, TINY)
    for name in checkpoint.names:
        expected = torch.from_numpy(VALUES[name]).bfloat16().float().numpy()
        np.testing.assert_array_equal(checkpoint.get(name).to_f32(), expected, err_msg=name)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", ["consolidated.00.pth", "eight parts"])
def test_consolidated_files_of_torch_save(tmp_path: Path, layout: str, is_zip: bool) -> None:
    state = mistral_state()
    (tmp_path / "params.json").write_text(json.dumps(params()))
    if layout == "eight parts":
        state = stacked(state)
        names = list(state)
        files = {f"consolidated.{n:02d}.pt": {name: state[name] for name in names[n::8]} for n in range(8)}
    else:
        files = {layout: state}
    for name, part in files.items():
        torch.save(part, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    assert_holds(tmp_path, "Mistral")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy in float32 as a folder for transformers, tokenizer included."""
    path = tmp_path_factory.mktemp("export") / "hf"
    export(checkpoint_of(TINY, VALUES), path, "huggingface", "f32")
    return path


def logits_of(path: Path) -> NDArray[np.float32]:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        found: NDArray[np.float32] = model(torch.tensor([[1, 5, 77, 900, 31000]])).logits[0].numpy()
    return found


def our_logits(checkpoint: Checkpoint) -> NDArray[np.float32]:
    leaves = {name: checkpoint.get(name) for name in checkpoint.names}
    return Toy(make_backend("reference"), checkpoint.config, leaves).alone([1, 5, 77, 900, 31000])


def test_transformers_loads_an_export(exported: Path) -> None:
    assert relative_error(logits_of(exported), our_logits(open_checkpoint(exported))) < LOGIT_TOLERANCE


def test_transformers_loads_shards(tmp_path: Path, exported: Path) -> None:
    write_folder(tmp_path / "x", TINY, F32, lambda name: [VALUES[name]], {}, shard_bytes=1_000_000)
    assert len(list((tmp_path / "x").glob("model-*"))) > 2
    np.testing.assert_array_equal(logits_of(tmp_path / "x"), logits_of(exported))


def test_a_bin_folder_of_transformers(tmp_path: Path, exported: Path) -> None:
    """pytorch_model.bin as transformers 4 saved it, split in two with an index and a tensor that both hold."""
    (tmp_path / "config.json").write_text((exported / "config.json").read_text())
    state = {name: torch.from_numpy(x) for name, x in _hugging_face_arrays(exported).items()}
    names, twice = list(state), next(iter(state))
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    weight_map: dict[str, str] = {}
    for file, held in halves.items():
        torch.save({name: state[name] for name in held} | {twice: state[twice]}, tmp_path / file)
        weight_map |= dict.fromkeys(held, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ours, theirs = open_checkpoint(tmp_path), open_checkpoint(exported)
    for name in theirs.names:
        np.testing.assert_array_equal(ours.get(name).to_f32(), theirs.get(name).to_f32(), err_msg=name)


def _hugging_face_arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_transformers_reads_the_tokenizer(tmp_path: Path, version: str) -> None:
    config = replace(TINY, vocab_size=32768)
    source = replace(
        checkpoint_of(config, random_values(config, [1])), tokenizer=find_mistral_common_tokenizer(version)
    )
    export(source, tmp_path / "x", "huggingface")
    ours = open_tokenizer(find_mistral_common_tokenizer(version))
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    for text in ("Hello  world", "naïve é 漢字 🙂\n\tx  ", "  two blanks"):
        assert theirs(text).input_ids == [ours.bos_id, *ours.encode(text)]
        assert theirs.decode(ours.encode(text)).removeprefix("<s>") == text
    talk = [*TALK[:3], {"role": "user", "content": "Bye"}]
    assert theirs.apply_chat_template(talk)["input_ids"] == encode_chat(ours, talk)


def test_mistral_common_reads_the_tokenizer(tmp_path: Path) -> None:
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    for version in ("v1", "v3"):
        config = replace(TINY, vocab_size=32768)
        model = find_mistral_common_tokenizer(version)
        source = replace(checkpoint_of(config, random_values(config, [1])), tokenizer=model.read_bytes())
        export(source, tmp_path / version, "mistral")
        file = open_checkpoint(tmp_path / version).tokenizer
        assert isinstance(file, Path)
        found = MistralTokenizer.from_file(str(file))
        request = ChatCompletionRequest(messages=[UserMessage(content="Hello there")])
        expected = encode_chat(open_tokenizer(model), [{"role": "user", "content": "Hello there"}])
        assert found.encode_chat_completion(request).tokens == expected


@pytest.mark.parametrize("format_name", ["f32", "f16", "bf16", "q8_0"])
def test_gguf_reads_the_numbers(tmp_path: Path, format_name: str) -> None:
    """llama.cpp's own Python package: names and shapes, and for q8_0 its quantizer's very bytes."""
    import gguf

    config = replace(TINY, hidden_dim=64)
    values = random_values(config, [4])
    export(checkpoint_of(config, values, tokenizer=False), tmp_path / "x.gguf", "gguf", format_name)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    kind = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[format_name]
    gate = tensors["blk.1.ffn_gate_exps.weight"]
    assert (gate.tensor_type.name, list(gate.shape)) == (kind, [config.dim, config.hidden_dim, config.n_experts])
    experts = np.stack([values[f"layers.1.experts.{e}.gate"] for e in range(config.n_experts)])
    np.testing.assert_array_equal(gate.data, gguf.quantize(experts, gate.tensor_type).view(gate.data.dtype))
    wq = neighbours_from_halves(values["layers.0.wq"], config.head_dim)
    found = tensors["blk.0.attn_q.weight"]
    np.testing.assert_array_equal(found.data, gguf.quantize(wq, found.tensor_type).view(found.data.dtype))


def test_bfloat16_is_torchs() -> None:
    x = VALUES["layers.0.wo"]
    np.testing.assert_array_equal(from_bf16(BF16.quantize(x)), torch.from_numpy(x).bfloat16().float().numpy())
