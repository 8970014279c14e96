"""Write samples with bitsandbytes: through transformers as people do, by its own quantizer where that has no option.

Runs in build/formats/bitsandbytes, as samples.py has it: write_bitsandbytes.py FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default import ops as default_ops
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

LINEARS = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)


@dataclass(frozen=True)
class Case:
    """A sample: what it is called, the model under models/, how it is quantized and computed."""

    name: str
    model: str
    config: BitsAndBytesConfig
    dtype: torch.dtype = torch.float16


def four_bits(kind: str, *, nested: bool, storage: str = "uint8") -> BitsAndBytesConfig:
    """The options of a model card: its lm_head stays plain, everything else that is a Linear does not."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_quant_storage=storage,
    )


CASES = (
    Case("nf4", "toy", four_bits("nf4", nested=False)),
    Case("nf4-nested", "toy", four_bits("nf4", nested=True), torch.bfloat16),
    Case("nf4-nested-odd", "odd", four_bits("nf4", nested=True), torch.float32),
    Case("nf4-stored-bf16", "toy", four_bits("nf4", nested=True, storage="bfloat16"), torch.bfloat16),
    Case("fp4", "toy", four_bits("fp4", nested=False), torch.float32),
    Case("fp4-nested", "odd", four_bits("fp4", nested=True)),
    Case("int8", "toy", BitsAndBytesConfig(load_in_8bit=True)),
    Case("int8-odd", "odd", BitsAndBytesConfig(load_in_8bit=True)),
    Case("nf4-pocket", "pocket", four_bits("nf4", nested=True), torch.bfloat16),
)


def write(folder: Path, case: Case) -> None:
    """Quantize on the CPU, save, and keep what bitsandbytes reads back."""
    model = AutoModelForCausalLM.from_pretrained(
        folder / "models" / case.model, quantization_config=case.config, dtype=case.dtype, device_map="cpu"
    )
    model.save_pretrained(folder / case.name)
    expected = {name: dequantized(module) for name, module in model.named_modules() if isinstance(module, LINEARS)}
    np.savez(folder / case.name / "expected.npz", **expected)
    np.save(folder / case.name / "logits.npy", logits(model, folder))


def dequantized(module: torch.nn.Module) -> np.ndarray:
    """float32 [out, in] by bitsandbytes' own dequantizers."""
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        return dequantized_4bit(module.weight.data, module.weight.quant_state)
    return functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).numpy()


def dequantized_4bit(packed: torch.Tensor, state: functional.QuantState) -> np.ndarray:
    """float32 [out, in]. Where blocks end inside rows, by the torch kernel: the AVX-512 one (0.50.2) is wrong there."""
    if state.shape[1] % state.blocksize == 0:
        return functional.dequantize_4bit(packed, state).float().numpy()
    absmax = (
        functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    )
    plain = default_ops._dequantize_4bit_compute.__wrapped__  # without torch.compile
    data = packed.view(torch.uint8).reshape(-1)
    return plain(data, absmax, state.code, state.blocksize, state.shape, state.dtype).float().numpy()


def logits(model: PreTrainedModel, folder: Path) -> np.ndarray:
    """[T, V], computed in float32 from the dequantized weights: bitsandbytes' own products round activations."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LINEARS):
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            plain.weight = torch.nn.Parameter(torch.from_numpy(dequantized(module)), requires_grad=False)
            model.set_submodule(name, plain)
    model.quantization_method = None  # or .float() is refused
    model.is_quantized = False
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))[None]
    with torch.inference_mode():
        return model.float()(tokens).logits[0].numpy()


def write_block_sizes(folder: Path) -> None:
    """nf4 of block sizes that transformers does not offer, in the same layout."""
    plain = load_file(folder / "models" / "toy" / "model.safetensors")
    for block_size in (128, 512, 2048, 4096):
        sample = folder / f"nf4-blocks-{block_size}"
        sample.mkdir()
        tensors, expected = {}, {}
        for name, x in plain.items():
            if x.ndim != 2 or ("proj" not in name and "experts" not in name):
                tensors[name] = x
                continue
            packed, state = functional.quantize_4bit(
                x, blocksize=block_size, quant_type="nf4", compress_statistics=block_size != 128
            )
            tensors[name] = packed
            tensors |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
            expected[name.removesuffix(".weight")] = dequantized_4bit(packed, state)
        save_file(tensors, sample / "model.safetensors", {"format": "pt"})
        settings = json.loads((folder / "models" / "toy" / "config.json").read_text())
        settings["quantization_config"] = four_bits("nf4", nested=True).to_dict()
        (sample / "config.json").write_text(json.dumps(settings))
        np.savez(sample / "expected.npz", **expected)


def main(folder: Path) -> None:
    """All samples whose model is there."""
    torch.manual_seed(0)
    for case in CASES:
        if (folder / "models" / case.model).is_dir():
            write(folder, case)
    write_block_sizes(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
