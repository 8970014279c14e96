"""The peers that pip can install, an entry each: a class made from the path of its environment, ggml type and GGUF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.base import Engine
from engines.kt_kernel import KtKernel
from engines.llama_cpp import LlamaCpp
from engines.openvino import OpenVino
from engines.transformers import Transformers

PEERS: dict[str, Callable[[Path, str | None, Path | None], Engine]] = {
    "llama_cpp": LlamaCpp,
    "transformers": Transformers,
    "openvino": OpenVino,
    "kt_kernel": KtKernel,
}
