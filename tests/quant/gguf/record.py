"""Record golden.npz: blocks that llama.cpp writes, and what its own dequantizers in C make of them, as a digest.

    python tests/quant/gguf/record.py llama.cpp/build/bin/libggml-base.so

By hand, where a type is new. Recorded with ggml 0.25.3 (llama.cpp 0.5.0), seed 11, two rows of 512 weights a type.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from octuor.quant.gguf import TYPES, Blocks

GOLDEN = Path(__file__).parent / "golden.npz"
SHAPE = (2, 512)
SPELLED = {f"q{n}_k": f"q{n}_K" for n in range(2, 9)}  # in C


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    x = np.random.default_rng(11).standard_normal(SHAPE).astype(np.float32)
    found: dict[str, Any] = {}
    for row in TYPES.values():
        if row.plain is None:
            data = quantize(library, row, x)
            found[row.name] = data
            found[row.name + ".sha256"] = np.array(hashlib.sha256(dequantize(library, row, data).tobytes()).hexdigest())
    np.savez_compressed(GOLDEN, **found)  # type: ignore[arg-type]


def quantize(library: ctypes.CDLL, row: Blocks, x: np.ndarray) -> np.ndarray:
    """Bytes [2, row bytes], every weight of equal importance."""
    data = np.zeros((SHAPE[0], row.row_bytes(SHAPE[1])), dtype=np.uint8)
    if row.name == "gguf-q8_k":  # not of files, so not in ggml_quantize_chunk
        library.quantize_row_q8_K_ref(x.ctypes.data_as(ctypes.c_void_p), data.ctypes.data_as(ctypes.c_void_p),
                                      ctypes.c_int64(x.size))  # fmt: skip
        return data
    ones = np.ones(SHAPE[1], dtype=np.float32)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    written = library.ggml_quantize_chunk(
        ctypes.c_int(row.ggml), x.ctypes.data_as(ctypes.c_void_p), data.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0), ctypes.c_int64(SHAPE[0]), ctypes.c_int64(SHAPE[1]), ones.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    assert written == data.nbytes, (row.name, written)
    return data


def dequantize(library: ctypes.CDLL, row: Blocks, data: np.ndarray) -> np.ndarray:
    """Float32 of SHAPE."""
    name = row.name.removeprefix("gguf-")
    out = np.empty(SHAPE, dtype=np.float32)
    function = getattr(library, f"dequantize_row_{SPELLED.get(name, name)}")
    function(data.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
    return out


if __name__ == "__main__":
    main()
