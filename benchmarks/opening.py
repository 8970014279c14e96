"""How long opening takes: files of 8x7B's widths in every layout that is read, with true headers and holes for weights.

    python benchmarks/opening.py [--folder DIR] [--layouts gguf,gptq] [--repeats N]

Each file has about 24 GB: all 32 layers in 4 bits, 16 in 8 bits, 8 in 16 bits; none of it is stored, so what a disk
takes to bring headers is not in the figures. Seconds of wall and CPU, medians, each run in a fresh process after its
imports: of open_checkpoint alone, and with every weight looked up, as a model does when it is made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint import mistral, open_checkpoint
from octuor.checkpoint.huggingface import SINGLE, places_of
from octuor.checkpoint.huggingface_config import write_config
from octuor.checkpoint.mistral_params import write_params
from octuor.checkpoint.pack import PackInParts
from octuor.checkpoint.safetensors_file import encode_header
from octuor.checkpoint.tensors import Tensor
from octuor.config import MIXTRAL_8X7B, ModelConfig
from octuor.quant.gguf import TYPES
from octuor.tools.convert import choose_formats
from octuor.weights import weight_shapes

LAYERS = {4: 32, 8: 16, 16: 8}  # by bits
HOLE = bytes(16 << 20)
DEFAULT_GROUP = 128
TORCH = {"BF16": "BFloat16Storage", "F32": "FloatStorage", "U8": "ByteStorage", "I8": "CharStorage"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """A tensor of a file; its data where a reader looks at it, else None: a hole."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Array | None = None


def known(name: str, dtype: str, data: Array) -> Entry:
    """A tensor whose data is there."""
    return Entry(name, dtype, data.shape, data)


# ---- matrices as other programs store them --------------------------------------------------------


def gptq(m: str, out: int, inputs: int) -> list[Entry]:
    groups = np.arange(inputs, dtype=np.int32) // DEFAULT_GROUP
    n = inputs // DEFAULT_GROUP
    return [
        Entry(f"{m}.qweight", "I32", (inputs // 8, out)), Entry(f"{m}.qzeros", "I32", (n, out // 8)),
        Entry(f"{m}.scales", "F16", (n, out)), known(f"{m}.g_idx", "I32", groups),
    ]  # fmt: skip


def awq(m: str, out: int, inputs: int) -> list[Entry]:
    n = inputs // DEFAULT_GROUP
    return [
        Entry(f"{m}.qweight", "I32", (inputs, out // 8)), Entry(f"{m}.qzeros", "I32", (n, out // 8)),
        Entry(f"{m}.scales", "F16", (n, out)),
    ]  # fmt: skip


def w4a16(m: str, out: int, inputs: int) -> list[Entry]:
    return [
        Entry(f"{m}.weight_packed", "I32", (out, inputs // 8)),
        Entry(f"{m}.weight_scale", "BF16", (out, inputs // DEFAULT_GROUP)),
        known(f"{m}.weight_shape", "I64", np.array([out, inputs])),
    ]


def w8a8(m: str, out: int, inputs: int) -> list[Entry]:
    return [Entry(f"{m}.weight", "I8", (out, inputs)), Entry(f"{m}.weight_scale", "BF16", (out, 1))]


def fp8(m: str, out: int, inputs: int) -> list[Entry]:
    grid = (-(-out // 128), -(-inputs // 128))
    return [Entry(f"{m}.weight", "F8_E4M3", (out, inputs)), Entry(f"{m}.weight_scale_inv", "F32", grid)]


def nf4(m: str, out: int, inputs: int) -> list[Entry]:
    state = {
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [out, inputs], "nested_blocksize": 256,
        "nested_dtype": "float32", "nested_offset": 0.05,
    }  # fmt: skip
    w, blocks = f"{m}.weight", out * inputs // 64
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return [
        Entry(w, "U8", (out * inputs // 2, 1)), Entry(f"{w}.absmax", "U8", (blocks,)),
        known(f"{w}.quant_map", "F32", np.linspace(-1, 1, 16, dtype=np.float32)),
        Entry(f"{w}.nested_absmax", "F32", (-(-blocks // 256),)), Entry(f"{w}.nested_quant_map", "F32", (256,)),
        known(f"{w}.quant_state.bitsandbytes__nf4", "U8", text),
    ]  # fmt: skip


def int8(m: str, out: int, inputs: int) -> list[Entry]:
    return [
        Entry(f"{m}.weight", "I8", (out, inputs)), Entry(f"{m}.SCB", "F32", (out,)),
        known(f"{m}.weight_format", "U8", np.array(0, np.uint8)),
    ]  # fmt: skip


def hqq(m: str, out: int, inputs: int) -> list[Entry]:
    groups = out * inputs // 64
    return [
        Entry(f"{m}.W_q", "U8", (groups // 2, 64)), Entry(f"{m}.zero", "BF16", (groups, 1)),
        Entry(f"{m}.scale", "BF16", (groups, 1)), known(f"{m}.shape", "I64", np.array([out, inputs])),
        known(f"{m}.packing", "U8", np.frombuffer(b"4bit_u8", np.uint8)),
        known(f"{m}.compute_dtype", "U8", np.frombuffer(b"torch.bfloat16", np.uint8)),
        known(f"{m}.nbits", "I32", np.array(4, np.int32)), known(f"{m}.group_size", "I32", np.array(64, np.int32)),
        known(f"{m}.axis", "I32", np.array(1, np.int32)),
    ]  # fmt: skip


def exl2(m: str, out: int, inputs: int) -> list[Entry]:
    n = inputs // DEFAULT_GROUP
    stated = np.stack([np.full(n, 4), np.arange(n) * DEFAULT_GROUP // 8], axis=1).astype(np.int16).reshape(-1)
    order = np.random.default_rng(inputs).permutation(inputs).astype(np.int32)
    return [
        Entry(f"{m}.q_weight", "I32", (inputs // 8, out)), Entry(f"{m}.q_scale", "I32", (n, out // 8)),
        Entry(f"{m}.q_scale_max", "F16", (n,)), known(f"{m}.q_groups", "I16", stated),
        known(f"{m}.q_invperm", "I32", order),
    ]  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """A quantization of Hugging Face folders: bits a weight, quantization_config, what a matrix is stored as."""

    bits: int
    settings: Mapping[str, Any]
    make: Callable[[str, int, int], list[Entry]]


def _compressed(layout: str, bits: int, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "symmetric": True, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


SCHEMES = {
    "gptq": Scheme(4, {"quant_method": "gptq", "bits": 4, "group_size": DEFAULT_GROUP, "desc_act": False}, gptq),
    "awq": Scheme(
        4, {"quant_method": "awq", "bits": 4, "group_size": DEFAULT_GROUP, "version": "gemm", "zero_point": True}, awq
    ),
    "compressed w4a16": Scheme(
        4, _compressed("pack-quantized", 4, strategy="group", group_size=DEFAULT_GROUP), w4a16
    ),
    "compressed w8a8": Scheme(8, _compressed("int-quantized", 8, strategy="channel"), w8a8),
    "fp8": Scheme(8, {"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8),
    "bitsandbytes nf4": Scheme(4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4),
    "bitsandbytes int8": Scheme(8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, int8),
    "hqq": Scheme(4, {"quant_method": "hqq", "quant_config": {}, "skip_modules": ["lm_head"]}, hqq),
    "exl2": Scheme(4, {"quant_method": "exl2", "version": "0.3.2", "bits": 4.0}, exl2),
}  # fmt: skip


# ---- files with holes ----------------------------------------------------------------------------


def config_of(bits: int) -> ModelConfig:
    return replace(MIXTRAL_8X7B, n_layers=LAYERS[bits])


def plain(config: ModelConfig, name_of: Callable[[str, tuple[int, ...]], str]) -> list[Entry]:
    return [Entry(name_of(name, shape), "BF16", shape) for name, shape in weight_shapes(config)]


def hf_names(config: ModelConfig) -> Callable[[str, tuple[int, ...]], str]:
    return lambda name, shape: places_of(name, shape, config)[0].tensor


def mistral_names(config: ModelConfig) -> Callable[[str, tuple[int, ...]], str]:
    return lambda name, shape: mistral.places_of(name, shape, config)[0].tensor


def write_sparse_safetensors(path: Path, entries: list[Entry]) -> None:
    tensors = [Tensor(entry.name, entry.dtype, entry.shape) for entry in entries]
    head, n_data = encode_header(tensors, {"format": "pt"})
    with path.open("wb") as file:
        file.write(head)
        for entry, tensor in zip(entries, tensors, strict=True):
            if entry.data is None:
                file.seek(tensor.n_bytes, 1)
            else:
                file.write(np.ascontiguousarray(entry.data).tobytes())
        file.truncate(len(head) + n_data)


class _Holes:
    """A file that seeks where HOLE is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.seek(len(data), 1) and len(data) if data is HOLE else self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_sparse_torch(path: Path, entries: list[Entry]) -> None:
    """As torch.save writes plain tensors: data.pkl and a stored member for each, at a multiple of 64 bytes."""
    pickled = b"\x80\x02}("
    for key, entry in enumerate(entries):
        pickled += _text(entry.name) + _tensor(entry, str(key))
    with path.open("wb") as raw, zipfile.ZipFile(_Holes(raw), "w") as archive:  # type: ignore[call-overload]
        archive.writestr(f"{path.stem}/data.pkl", pickled + b"u.")
        archive.writestr(f"{path.stem}/byteorder", b"little")
        for key, entry in enumerate(entries):
            left = Tensor(entry.name, entry.dtype, entry.shape).n_bytes
            member_info = zipfile.ZipInfo(f"{path.stem}/data/{key}")
            gap = -(raw.tell() + 30 + len(member_info.filename) + 20 + 4) % 64  # before it: its header, zip64's field
            member_info.extra = b"FB" + gap.to_bytes(2, "little") + bytes(gap)
            with archive.open(member_info, "w", force_zip64=True) as member:
                while left >= len(HOLE):
                    member.write(HOLE)
                    left -= len(HOLE)
                member.write(bytes(left))


def _text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def _number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def _tensor(entry: Entry, key: str) -> bytes:
    strides = [prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    stored = b"(" + _text("storage") + f"ctorch\n{TORCH[entry.dtype]}\n".encode() + _text(key) + _text("cpu")
    stored += _number(prod(entry.shape)) + b"tQ"
    sizes = [b"(" + b"".join(map(_number, values)) + b"t" for values in (entry.shape, strides)]
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + _number(0) + b"".join(sizes)
    return head + b"\x89ccollections\nOrderedDict\n)RtR"


def write_sparse_gguf(path: Path, config: ModelConfig) -> None:
    """Q4_K for all matrices, experts together, by the package's own writer."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (
        ("vocab_size", config.vocab_size), ("context_length", config.max_seq_len), ("embedding_length", config.dim),
        ("block_count", config.n_layers), ("feed_forward_length", config.hidden_dim),
        ("attention.head_count", config.n_heads), ("attention.head_count_kv", config.n_kv_heads),
        ("rope.dimension_count", config.head_dim), ("expert_count", config.n_experts),
        ("expert_used_count", config.n_experts_per_token),
    ):  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_float32("llama.rope.freq_base", config.rope_theta)
    tops = {"embed": "token_embd", "norm": "output_norm", "lm_head": "output"}
    parts = {
        "attention_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
        "moe_norm": "ffn_norm", "router": "ffn_gate_inp",
    }  # fmt: skip
    q4_k = gguf.GGMLQuantizationType.Q4_K
    total = 0
    for name, shape in weight_shapes(config):
        words = name.split(".")
        if "experts" in words:
            if words[3] != "0":
                continue
            called, shape = f"blk.{words[1]}.ffn_{words[4]}_exps", (config.n_experts, *shape)
        else:
            called = tops[name] if name in tops else f"blk.{words[1]}.{parts[words[2]]}"
        if len(shape) == 1 or "gate_inp" in called:
            n_bytes = 4 * prod(shape)
            writer.add_tensor_info(f"{called}.weight", shape, np.dtype(np.float32), n_bytes)
        else:
            stored = (*shape[:-1], TYPES[q4_k].row_bytes(shape[-1]))
            n_bytes = prod(stored)
            writer.add_tensor_info(f"{called}.weight", stored, np.dtype(np.uint8), n_bytes, raw_dtype=q4_k)
        total += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    begins = -(-path.stat().st_size // 32) * 32
    with path.open("r+b") as file:
        file.truncate(begins + total)


def write_sparse_pack(path: Path, config: ModelConfig) -> None:
    with PackInParts(path, config, choose_formats(config, "q4", {})) as file:
        file.finish()


# ---- the layouts ---------------------------------------------------------------------------------


def make(layout: str, folder: Path) -> Path:
    """The file or folder of a layout."""
    folder.mkdir(parents=True)
    if layout == "pack q4":
        write_sparse_pack(folder / "model.octuor", config_of(4))
        return folder / "model.octuor"
    if layout == "gguf Q4_K":
        write_sparse_gguf(folder / "model.gguf", config_of(4))
        return folder / "model.gguf"
    if layout in SCHEMES:
        scheme = SCHEMES[layout]
        config = config_of(scheme.bits)
        settings = json.loads(write_config(config, "bfloat16")) | {"quantization_config": dict(scheme.settings)}
        (folder / "config.json").write_text(json.dumps(settings))
        entries: list[Entry] = []
        for entry in plain(config, hf_names(config)):
            is_matrix = len(entry.shape) == 2 and ("self_attn" in entry.name or "experts" in entry.name)
            entries += scheme.make(entry.name.removesuffix(".weight"), *entry.shape) if is_matrix else [entry]
        write_sparse_safetensors(folder / ("output.safetensors" if layout == "exl2" else SINGLE), entries)
        return folder
    config = config_of(16)
    if layout.startswith("mistral"):
        (folder / "params.json").write_text(write_params(config))
        entries = plain(config, mistral_names(config))
    else:
        (folder / "config.json").write_text(write_config(config, "bfloat16"))
        entries = plain(config, hf_names(config))
    name = PLAIN[layout]
    (write_sparse_safetensors if name.endswith(".safetensors") else write_sparse_torch)(folder / name, entries)
    return folder


PLAIN = {
    "huggingface safetensors": SINGLE,
    "huggingface bin": "pytorch_model.bin",
    "mistral safetensors": "consolidated.safetensors",
    "mistral pth": "consolidated.00.pth",
}
LAYOUTS = ("pack q4", "gguf Q4_K", *PLAIN, *SCHEMES)


def opened(path: str) -> dict[str, float]:
    """Seconds that it took here: wall and CPU, of opening and with all weights."""
    begins = time.perf_counter(), time.process_time()
    checkpoint = open_checkpoint(path)
    found = {"wall": time.perf_counter() - begins[0], "cpu": time.process_time() - begins[1]}
    assert checkpoint.n_bytes > 20e9
    return found | {"wall_all": time.perf_counter() - begins[0], "cpu_all": time.process_time() - begins[1]}


def main() -> None:
    """Print a row for each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where files may be made; default: a temporary one")
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--open", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(opened(options.open)))
        return
    print("| layout | GB | open, wall s | CPU s | with all weights, wall s | CPU s |\n|---|---|---|---|---|---|")
    for layout in options.layouts.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            path = make(layout, Path(name) / "model")
            files = [path] if path.is_file() else list(path.iterdir())
            size = sum(file.stat().st_size for file in files)
            command = [sys.executable, __file__, "--open", str(path)]
            outputs = [subprocess.run(command, check=True, capture_output=True).stdout for _ in range(options.repeats)]
            runs = [json.loads(output) for output in outputs]
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {layout} | {size / 1e9:.1f} | {middle['wall']:.3f} | {middle['cpu']:.3f} | "
            f"{middle['wall_all']:.3f} | {middle['cpu_all']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
