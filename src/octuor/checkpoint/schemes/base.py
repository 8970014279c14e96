"""What the Hugging Face reader knows about a quantization: its names in config.json, and a finder of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from octuor.checkpoint.tensors import TensorStore
from octuor.weights import Weight


class Finder(Protocol):
    """Finds the quantized weights of one opened checkpoint."""

    def __call__(self, module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        """The weight of a module, None where its weight is stored plainly or there is no such module.

        module  as files name it, without `.weight`: model.layers.0.self_attn.q_proj
        shape   [out, in] that the config asks for
        name    its canonical name, for the Weight

        Raises CheckpointError where the module's tensors are there but wrong: missing siblings, shapes, dtypes. Reads
        headers and small tensors only.
        """


@dataclass(frozen=True)
class Scheme:
    """One quantization.

    methods  its quant_method in config.json, in every spelling there is
    open     settings of quantization_config, all tensors -> the finder; CheckpointError on settings it cannot read
    """

    methods: tuple[str, ...]
    open: Callable[[Mapping[str, Any], TensorStore], Finder]
