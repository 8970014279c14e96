"""Write samples with llama.cpp: its own quantizer in every file type, its own dequantizer, its own logits.

Runs in build/formats/llama_cpp, as samples.py has it: write_llama_cpp.py FOLDER. Beside what samples.py asks for, each
SAMPLE/model.gguf has

    SAMPLE/digests.json     tensor -> SHA-256 of its numbers as float32, by the dequantizers of libggml-base in C
    SAMPLE/logits.npy       of the sample requantized to f32 by llama.cpp, so that activations are float32 too
    SAMPLE/own_logits.npy   of the sample as llama.cpp runs it, with activations in 8 bits
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.constants import GGMLQuantizationType
from llama_cpp import llama_cpp as api
from safetensors.numpy import load_file

PREFIX = "LLAMA_FTYPE_MOSTLY_"
ERROR = 4  # GGML_LOG_LEVEL_ERROR
F32 = api.LLAMA_FTYPE_ALL_F32
NOT_WRITTEN = {"NVFP4", "Q2_0"}  # llama.cpp only copies the one, and the gguf package (0.19) cannot read the other
OF_POCKET = ("Q4_K_M", "Q8_0", "Q2_K", "IQ3_XXS")
OF_ODD = ("Q4_K_M", "Q4_0", "BF16")  # rows that hold no block of 256: other types take their place
C_NAMES = {f"q{n}_k": f"q{n}_K" for n in range(2, 9)}


@dataclass(frozen=True)
class Case:
    """A sample: a model under models/ and a file type by its name in llama.h."""

    model: str
    file_type: str

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.file_type.lower()}-{self.model}"


def cases() -> list[Case]:
    """Every file type that this llama.cpp writes, for the toy; some for the other models."""
    every = sorted({name.removeprefix(PREFIX) for name in vars(api) if name.startswith(PREFIX)} - NOT_WRITTEN)
    return [
        Case(model, file_type)
        for model, types in (("toy", every), ("odd", OF_ODD), ("pocket", OF_POCKET))
        for file_type in types
    ]


def write_plain(model: Path, out: Path) -> None:
    """A Hugging Face folder as a GGUF file of f16 (norms and router f32), as conversion/llama.py does it."""
    config = json.loads((model / "config.json").read_text())
    tensors = load_file(model / "model.safetensors")
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])

    def add(theirs: str, x: np.ndarray) -> None:
        name = names.get_name(theirs, try_suffixes=(".weight",))
        assert name is not None, theirs
        writer.add_tensor(name, x.astype(np.float32) if x.ndim == 1 or "gate_inp" in name else x)

    n_experts = config["num_local_experts"]
    for name, x in tensors.items():
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        if (part := name.split(".")[-2]) in heads:
            halves = x.reshape(heads[part], 2, -1, x.shape[1])
            add(name, np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(x.shape))
        elif ".experts." not in name:
            add(name, x)
        elif ".experts.0." in name:
            every = [tensors[name.replace(".experts.0.", f".experts.{e}.")] for e in range(n_experts)]
            add(name.replace(".experts.0.", ".experts."), np.stack(every))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, out: Path, file_type: int) -> None:
    """By llama.cpp's quantizer, with an importance of every input: some types are not written without."""
    params = api.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = file_type, True, 2
    tensors = [tensor for tensor in gguf.GGUFReader(source).tensors if len(tensor.shape) > 1]
    matrices = (api.llama_model_imatrix_data * (len(tensors) + 1))()
    kept = []
    for entry, tensor in zip(matrices, tensors, strict=False):
        n_inputs, n_experts = int(tensor.shape[0]), int(tensor.shape[2]) if len(tensor.shape) > 2 else 1
        importance = np.tile(np.linspace(0.5, 2, n_inputs, dtype=np.float32), n_experts)
        kept.append(importance)
        entry.name = tensor.name.encode()
        entry.data = importance.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = importance.size
    params.imatrix = matrices
    status = api.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    assert status == 0, (out, status)


def digests(path: Path) -> dict[str, str]:
    """What llama.cpp's C code makes of each tensor."""
    base = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so"))))
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type
        if kind == GGMLQuantizationType.F32:
            numbers = np.asarray(tensor.data)
        elif kind == GGMLQuantizationType.F16:
            numbers = np.asarray(tensor.data).astype(np.float32)
        elif kind == GGMLQuantizationType.BF16:
            numbers = (np.ascontiguousarray(tensor.data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            data = np.ascontiguousarray(tensor.data)
            numbers = np.empty(int(tensor.n_elements), dtype=np.float32)
            name = kind.name.lower()
            function = getattr(base, f"dequantize_row_{C_NAMES.get(name, name)}")
            function(data.ctypes.data_as(ctypes.c_void_p), numbers.ctypes.data_as(ctypes.c_void_p),
                     ctypes.c_int64(numbers.size))  # fmt: skip
        found[tensor.name] = hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()
    return found


def logits(path: Path, tokens: list[int], n_words: int) -> np.ndarray:
    """[T, V] of one prompt, keys and values in float32."""
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    assert model, path
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.type_k = params.type_v = GGMLQuantizationType.F32
    params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 2
    context = api.llama_init_from_model(model, params)
    batch = api.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
        batch.seq_id[i][0] = 0
    assert api.llama_decode(context, batch) == 0
    rows = [np.ctypeslib.as_array(api.llama_get_logits_ith(context, i), (n_words,)).copy() for i in range(len(tokens))]
    api.llama_free(context)
    api.llama_model_free(model)
    return np.stack(rows)


def write(folder: Path, case: Case) -> None:
    """One sample with all that belongs to it."""
    model = folder / "models" / case.model
    plain, out = folder / f"{case.model}-f16.gguf", folder / case.name / "model.gguf"
    if not plain.exists():
        write_plain(model, plain)
    out.parent.mkdir()
    quantize(plain, out, getattr(api, PREFIX + case.file_type))
    (out.parent / "digests.json").write_text(json.dumps(digests(out)))
    tokens = np.load(folder / "tokens.npy").tolist()
    n_words = json.loads((model / "config.json").read_text())["vocab_size"]
    np.save(out.parent / "own_logits.npy", logits(out, tokens, n_words))
    again = folder / "again.gguf"
    quantize(out, again, F32)
    np.save(out.parent / "logits.npy", logits(again, tokens, n_words))
    again.unlink()


@api.llama_log_callback
def log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Errors alone."""
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    folder = Path(sys.argv[1])
    api.llama_log_set(log, None)
    api.llama_backend_init()
    for case in cases():
        print(case.name, flush=True)
        write(folder, case)


if __name__ == "__main__":
    main()
