"""bitsandbytes samples on a CPU: whole models through transformers, and block sizes that it has no option for.

expected.npz is functional.dequantize_4bit or int8_vectorwise_dequant. transformers is of the last 4 here, in which
experts are Linears and so are quantized; 5 leaves them and the router as they are.
Run by live_bitsandbytes.py in an environment of its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default import ops as default_ops
from reference import matrices, save_expected, save_sample
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


@dataclass(frozen=True)
class Case:
    """A sample: what it is called, the model under models/, how it is quantized, what it is computed in."""

    name: str
    model: str
    config: BitsAndBytesConfig
    dtype: torch.dtype = torch.float16


def four_bits(kind: str, *, nested: bool, storage: str = "uint8") -> BitsAndBytesConfig:
    """The options of model cards. lm_head stays plain by default, the router does not."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested, bnb_4bit_quant_storage=storage
    )


CASES = (
    Case("nf4", "toy", four_bits("nf4", nested=False)),
    Case("nf4-nested", "toy", four_bits("nf4", nested=True), torch.bfloat16),
    Case("nf4-nested-odd", "odd", four_bits("nf4", nested=True), torch.float32),
    Case("nf4-stored-bf16", "toy", four_bits("nf4", nested=True, storage="bfloat16"), torch.bfloat16),
    Case("fp4", "toy", four_bits("fp4", nested=False), torch.float32),
    Case("fp4-nested-odd", "odd", four_bits("fp4", nested=True)),
    Case("int8", "toy", BitsAndBytesConfig(load_in_8bit=True)),
    Case("int8-odd", "odd", BitsAndBytesConfig(load_in_8bit=True)),
    Case("nf4-pocket", "pocket", four_bits("nf4", nested=True), torch.bfloat16),
)
BLOCK_SIZES = (32, 128, 512, 2048, 4096)


def write_model(sample: Path, model_folder: Path, config: BitsAndBytesConfig, dtype: torch.dtype) -> None:
    """A model quantized and saved by transformers."""
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, quantization_config=config, dtype=dtype, device_map="cpu"
    )
    model.save_pretrained(sample)
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            expected[name] = dequantized(module.weight.data, module.weight.quant_state)
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            expected[name] = functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
    save_expected(sample, model_folder, expected)


def write_blocks(sample: Path, model_folder: Path, block_size: int) -> None:
    """Matrices by bitsandbytes' quantizer; absmax is quantized too in every second sample."""
    modules, expected = {}, {}
    for name, x in matrices(model_folder).items():
        nested = BLOCK_SIZES.index(block_size) % 2 == 1
        packed, state = functional.quantize_4bit(x, None, None, block_size, nested, "nf4")
        modules[name] = {"weight": packed}
        modules[name] |= {f"weight.{part}": value for part, value in state.as_dict(packed=True).items()}
        expected[name] = dequantized(packed, state)
    save_sample(sample, model_folder, modules, four_bits("nf4", nested=True).to_dict())
    save_expected(sample, model_folder, expected)


def dequantized(packed: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
    """[out, in]. Where blocks end inside rows, by the torch kernel: the AVX-512 one (0.50.2) is wrong there."""
    if state.shape[1] % state.blocksize == 0:
        return functional.dequantize_4bit(packed, state)
    absmax = (
        functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    )
    kernel = default_ops._dequantize_4bit_compute.__wrapped__  # without torch.compile
    data = packed.view(torch.uint8).reshape(-1)
    return kernel(data, absmax, state.code, state.blocksize, state.shape, state.dtype)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for case in CASES:
        if (folder / "models" / case.model).is_dir():
            write_model(folder / case.name, folder / "models" / case.model, case.config, case.dtype)
    for block_size in BLOCK_SIZES:
        write_blocks(folder / f"nf4-blocks-{block_size}", folder / "models" / "toy", block_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
