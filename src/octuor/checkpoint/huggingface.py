"""Folders in the Hugging Face layout: config.json beside files of tensors; read here, written by tools/export.

E experts, F hidden_dim, D dim. Files hold one matrix an expert and projection (w1 gate, w3 up, w2 down) or, as
transformers 5 holds them in memory, all experts' gate and up in one [E, 2F, D] and down in one [E, D, F].
RoPE rotates halves in these files as in our kernels, so wq and wk are taken as they are.
"""

from __future__ import annotations

from pathlib import Path

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.huggingface_config import read_config
from octuor.checkpoint.schemes import open_scheme, read_settings
from octuor.checkpoint.shards import open_index, open_numbered, open_parts
from octuor.checkpoint.tensors import Place, TensorStore
from octuor.checkpoint.torch_file import SUFFIXES
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant import BF16, F16, F32, Format
from octuor.tokenizer.registry import find_tokenizer_file, tokenizer_kind
from octuor.weights import Weight, weight_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BIN_INDEX = "pytorch_model.bin.index.json"
BIN_SINGLE = "pytorch_model.bin"
HQQ_SINGLE = "qmodel.pt"  # of hqq's save_quantized
FORMATS: dict[str, Format] = {row.safetensors: row for row in (F32, F16, BF16)}
_TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "lm_head": "lm_head.weight"}
_PARTS = {
    "attention_norm": "input_layernorm.weight",
    "wq": "self_attn.q_proj.weight",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "wo": "self_attn.o_proj.weight",
    "moe_norm": "post_attention_layernorm.weight",
    "router": "block_sparse_moe.gate.weight",
}
_SPARSE = "block_sparse_moe"
_EXPERT_PARTS = {"gate": "w1", "up": "w3", "down": "w2"}


def is_huggingface(path: Path) -> bool:
    """Whether a path is a folder with a config.json."""
    return path.is_dir() and (path / "config.json").is_file()


def is_huggingface_whole(path: Path) -> bool:
    """Whether a folder has weights of this layout beside its config.json, not another layout's alone."""
    return is_huggingface(path) and any((path / name).is_file() for name in (INDEX, SINGLE, BIN_INDEX, BIN_SINGLE))


def open_huggingface(path: Path) -> Checkpoint:
    """Map a folder's shards. Raises CheckpointError naming the missing shard or weight, or the wrong shape."""
    read = read_config(path / "config.json")
    tensors = _open_shards(path)
    settings = read_settings(read.quantization, path)
    find = None if settings is None else open_scheme(settings, tensors, path / "config.json")
    shapes: dict[str, tuple[int, ...]] = {}
    quantized: dict[str, Weight] = {}
    places: dict[str, Place] = {}
    for name, shape in weight_shapes(read.config):  # ends at the first that is missing, however many there should be
        shapes[name] = shape
        candidates = places_of(name, shape, read.config)
        if name == "lm_head" and read.is_tied:
            candidates += places_of("embed", shape, read.config)
        modules = [place.tensor.removesuffix(".weight") for place in candidates]
        weight = next((w for module in modules if find and (w := find(module, shape, name)) is not None), None)
        if weight is not None:
            quantized[name] = weight
            continue
        found = next((place for place in candidates if place.tensor in tensors), None)
        if found is None:
            raise CheckpointError(
                f"{name}: expected a tensor {candidates[0].tensor}, found none in {tensors.label}; "
                "download the folder again, or is config.json another model's?"
            )
        check_tensor(name, found.tensor, found.shape, tensors, "config.json")
        places[name] = found

    def load(name: str) -> Weight:
        if name in quantized:
            return quantized[name]
        place = places[name]
        row = FORMATS[tensors.tensor(place.tensor).dtype]
        return Weight(tensors.get(place.tensor)[place.part], shapes[name], row, name)

    tokenizer = find_tokenizer_file(path)
    kind = None if tokenizer is None else tokenizer_kind(tokenizer)
    return Checkpoint(read.config, path, READER.name, load, tokenizer, kind, tuple(file.file for file in tensors.files))


def places_of(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Place]:
    """Where files may hold a canonical weight; the first is what we write."""
    if name in _TOP:
        return [Place(_TOP[name], shape)]
    _, layer, part, *rest = name.split(".")
    at = f"model.layers.{layer}."
    if part == "router":
        return [Place(at + _PARTS[part], shape), Place(at + "mlp.gate.weight", shape)]
    if part != "experts":
        return [Place(at + _PARTS[part], shape)]
    expert, projection = int(rest[0]), rest[1]
    if config.is_dense:
        return [Place(f"{at}mlp.{projection}_proj.weight", shape)]
    e, d, f = config.n_experts, config.dim, config.hidden_dim
    whole = Place(f"{at}block_sparse_moe.experts.{expert}.{_EXPERT_PARTS[projection]}.weight", shape)
    # Quantizers take the modules of transformers 5 apart again, and name them each in its own way.
    apart = [Place(f"{at}{part}.experts.{expert}.{projection}_proj.weight", shape) for part in ("mlp", _SPARSE)]
    if projection == "down":
        return [whole, *apart, Place(at + "mlp.experts.down_proj", (e, d, f), (expert,))]
    rows = slice(0, f) if projection == "gate" else slice(f, 2 * f)
    return [whole, *apart, Place(at + "mlp.experts.gate_up_proj", (e, 2 * f, d), (expert, rows))]


def _open_shards(path: Path) -> TensorStore:
    outputs = sorted(file.name for file in path.glob("output*.safetensors"))
    if outputs:  # ExLlamaV2's, perhaps beside the index of the model that it quantized
        return open_numbered(path, outputs)
    if (path / HQQ_SINGLE).is_file():
        return open_parts(path, [HQQ_SINGLE])
    for index, single in ((INDEX, SINGLE), (BIN_INDEX, BIN_SINGLE)):
        if (path / index).is_file():
            return open_index(path / index)
        if (path / single).is_file():
            return open_parts(path, [single])
    # Quantizers used to choose names of their own, such as gptq_model-4bit-128g.safetensors.
    indices = sorted(path.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return open_index(indices[0])
    named = sorted(file.name for file in path.glob("*.safetensors") if not file.name.startswith("consolidated"))
    if len(named) == 1:
        return open_parts(path, named)
    others = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", *SUFFIXES))
    raise CheckpointError(
        f"{path}: expected {SINGLE}, {INDEX}, {BIN_SINGLE} or {BIN_INDEX}, "
        f"found {', '.join(others[:3]) or 'no weights'}; download the model's safetensors files"
    )


def check_tensor(name: str, tensor: str, shape: tuple[int, ...], tensors: TensorStore, settings: str) -> None:
    """Raise CheckpointError where a plain weight's tensor has another shape, or numbers that are not of FORMATS.

    name      the weight's canonical name
    settings  the file that the shape comes from
    """
    stored, file = tensors.tensor(tensor), tensors.path(tensor).name
    if stored.shape != shape:
        raise CheckpointError(
            f"{name}: expected {list(shape)}, file has {list(stored.shape)} for {tensor} "
            f"({file}); does {settings} belong to these files?"
        )
    if stored.dtype not in FORMATS:
        raise CheckpointError(
            f"{name}: expected {', '.join(FORMATS)}, file has {stored.dtype} for {tensor} ({file}); "
            "name the model's unquantized checkpoint"
        )


LOOKS_FOR = "a folder with config.json and *.safetensors or pytorch_model*.bin"
READER = Reader("Hugging Face", LOOKS_FOR, is_huggingface, open_huggingface)
