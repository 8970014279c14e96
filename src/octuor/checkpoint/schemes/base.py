"""What the Hugging Face reader knows about a quantization: its names in config.json, and a finder of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from octuor.checkpoint.tensors import TensorStore
from octuor.errors import CheckpointError
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


def refuse(tensors: TensorStore, field: str, expected: str, found: Any) -> CheckpointError:
    """The error for a setting of quantization_config that no file we can read has."""
    return CheckpointError(
        f"{tensors.label}: quantization_config: expected {field} {expected}, found {str(found)[:80]!r}; "
        "name another quantization of the model, or its plain weights"
    )


def refuse_unless(settings: Mapping[str, Any], field: str, value: str | None, tensors: TensorStore) -> None:
    """Raise CheckpointError where a setting is there and is neither this value nor null."""
    if settings.get(field) not in (value, None):
        raise refuse(tensors, field, "none" if value is None else value, settings[field])


def refuse_bias(tensors: TensorStore, module: str) -> None:
    """Raise CheckpointError if a module has a bias that is not zero: our models have none, some files store zeros."""
    bias = f"{module}.bias"
    if bias in tensors and np.any(tensors.expect(bias, ["F16", "BF16", "F32"], [None])):
        raise CheckpointError(
            f"{bias}: expected none or zeros, found others in {tensors.path(bias).name}; octuor runs models "
            "without biases"
        )


def integer(
    settings: Mapping[str, Any], fields: Sequence[str], allowed: Sequence[int] | None, tensors: TensorStore
) -> int:
    """A whole number under the first of its names that is there; None in `allowed`: -1 or any positive number."""
    field = next((field for field in fields if field in settings), fields[0])
    found = settings.get(field)
    fits = type(found) is int and (found in allowed if allowed is not None else found == -1 or found >= 1)
    if type(found) is not int or not fits:
        wanted = "-1 or a positive number" if allowed is None else " or ".join(str(number) for number in allowed)
        raise refuse(tensors, field, wanted, found)
    return found


def group_size_of(stated: int, inputs: int) -> int:
    """Inputs that share a scale: as stated, all of them for -1."""
    return inputs if stated == -1 else stated
