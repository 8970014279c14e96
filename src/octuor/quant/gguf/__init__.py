"""ggml's tensor types, as GGUF files hold them: one row each, by ggml's number."""

from octuor.quant.gguf.base import Blocks
from octuor.quant.gguf.four_bit import FOUR_BIT
from octuor.quant.gguf.i import I_TYPES
from octuor.quant.gguf.k import K_TYPES
from octuor.quant.gguf.legacy import LEGACY
from octuor.quant.gguf.plain import PLAIN
from octuor.quant.gguf.ternary import TERNARY

__all__ = ["TYPES", "Blocks"]

TYPES: dict[int, Blocks] = {row.ggml: row for row in (*PLAIN, *LEGACY, *K_TYPES, *I_TYPES, *FOUR_BIT, *TERNARY)}
