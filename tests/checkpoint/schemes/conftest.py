"""The toy's plain tensors and config.json, which every scheme's tests quantize in their own way."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint.schemes.quantized_folders import Make, Quantized, quantize


@pytest.fixture
def quantized(tensors: Any, settings: dict[str, Any]) -> Any:
    """quantized(quantization_config, make): a folder before it is written."""

    def made(scheme: dict[str, Any], make: Make) -> Quantized:
        return quantize(tensors, settings, scheme, make)

    return made
