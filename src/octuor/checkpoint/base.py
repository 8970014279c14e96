"""What the rest of Octuor knows about a checkpoint: a config, named weights read lazily, a tokenizer file.

It need not know how files are found, named or laid out: each reader fills in a Checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from octuor.checkpoint.files import MappedFile, in_row_order
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant import Format
from octuor.weights import Leaf, Weight, Weights, build, weight_shapes


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Opening reads headers only; a weight's numbers are read when they are touched.

    source          the file or folder it came from
    kind            name of the Reader that opened it
    load            canonical name -> Weight, a view of a mapped file where the file's layout allows it; plain numbers
                    may lie strided in it
    tokenizer       the tokenizer's file, or its bytes where it lies inside the checkpoint; None: there is none
    tokenizer_kind  "tokenizer.model" (SentencePiece) or "tokenizer.json" (Hugging Face); None with tokenizer
    files           the files that `load` views, for reading them ahead of use; none where weights lie in memory
    notes           what the reader found unusual, a sentence each, for `octuor info`
    """

    config: ModelConfig
    source: Path
    kind: str
    load: Callable[[str], Weight]
    tokenizer: Path | bytes | None = None
    tokenizer_kind: str | None = None
    files: tuple[MappedFile, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Canonical names of all weights, in the order of weights.weight_shapes."""
        return tuple(name for name, _ in weight_shapes(self.config))

    @cached_property
    def n_bytes(self) -> int:
        """Bytes that the weights take as they are stored."""
        return sum(self.get(name).nbytes for name in self.names)

    def get(self, name: str) -> Weight:
        """The weight with this canonical name; CheckpointError if the model has none such."""
        if name not in self._known:
            raise CheckpointError(f"{self.source}: expected a name such as {self.names[1]}, found {name!r}")
        return self.load(name)

    def weights(self, put: Callable[[Weight], Leaf]) -> Weights:
        """All weights, each given to `put` (a backend's Ops.put) once; those that lie strided are copied for it."""
        return build(self.config, lambda name: put(contiguous(self.load(name))))

    def tokenizer_bytes(self) -> bytes | None:
        """Contents of the tokenizer file, None where there is none."""
        return self.tokenizer.read_bytes() if isinstance(self.tokenizer, Path) else self.tokenizer

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)


def contiguous(weight: Weight) -> Weight:
    """The weight with its numbers one after the other, as kernels need them: itself, or a copy in memory."""
    if weight.data.flags.c_contiguous:
        return weight
    data = in_row_order(weight.data)
    return replace(weight, data=data.reshape(weight.shape) if isinstance(weight.format, Format) else data)


@dataclass(frozen=True)
class Reader:
    """One kind of checkpoint.

    name      what error messages and `octuor` call the kind
    looks_for what a user has to have, for the message when no reader matches
    matches   whether a path is of this kind; looks at names and at most at one header
    open      reads headers, checks every name and shape; CheckpointError says what is wrong
    """

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]
