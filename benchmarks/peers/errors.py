"""How far ggml's number formats are from the weights: relative rms error and bits, by its own quantizers.

    python benchmarks/peers/errors.py LIBGGML_BASE.so [--types Q4_0,Q4_K]

Needs NumPy and gguf (which dequantizes) and the shared library that llama-cpp-python installs, in the folder
llama_cpp/lib: run it with the python of that environment. Weights are Gaussian, or Student's t with 8 degrees of
freedom for heavier tails; no importance matrix.
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_ROWS, N_PER_ROW = 256, 4096
TYPES = "Q8_0,Q6_K,Q5_K,Q4_0,IQ4_NL,Q4_K,IQ4_XS,Q3_K,IQ3_S,Q2_K"


def quantize(library: ctypes.CDLL, type_id: int, weights: NDArray[np.float32], n_bytes: int) -> NDArray[np.uint8]:
    """ggml_quantize_chunk on [rows, row] float32; returns [rows, bytes of a row]."""
    out = np.zeros((len(weights), n_bytes), dtype=np.uint8)
    pointers = weights.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)
    size = library.ggml_quantize_chunk(
        ctypes.c_int(type_id), *pointers, *map(ctypes.c_int64, (0, *weights.shape)), ctypes.c_void_p()
    )
    assert size == out.nbytes, f"expected {out.nbytes} bytes, found {size}"
    return out


def relative_error(weights: NDArray[np.float32], found: Any) -> float:
    """Root mean square of the difference over that of the weights."""
    return float(np.sqrt(np.mean((weights - found) ** 2) / np.mean(weights**2)))


def main() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="libggml-base.so")
    parser.add_argument("--types", default=TYPES, help="default %(default)s")
    args = parser.parse_args()
    library = ctypes.CDLL(str(args.library))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    rng = np.random.default_rng(0)
    shape = (N_ROWS, N_PER_ROW)
    drawn = [rng.standard_normal(shape, dtype=np.float32), rng.standard_t(8, shape).astype(np.float32)]
    print(f"{'type':8} {'bits':>7} {'Gaussian':>9} {'t8':>9}")
    for name in args.types.split(","):
        kind = GGMLQuantizationType[name]
        n_weights, n_bytes = GGML_QUANT_SIZES[kind]
        errors = []
        for weights in drawn:
            blocks = quantize(library, kind.value, weights, N_PER_ROW // n_weights * n_bytes)
            errors.append(relative_error(weights, dequantize(blocks, kind)))
        print(f"{name:8} {8 * n_bytes / n_weights:7.4f} {errors[0]:9.4f} {errors[1]:9.4f}", flush=True)


if __name__ == "__main__":
    main()
