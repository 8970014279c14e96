"""What is planned for: a geometry's name, a checkpoint here, or a model on the Hub; nothing but headers is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.hub import find_model
from octuor.checkpoint.huggingface_config import parse_config
from octuor.checkpoint.open import is_hub_id
from octuor.config import GEOMETRIES, ModelConfig
from octuor.errors import CheckpointError


@dataclass(frozen=True)
class Stored:
    """Weights as a checkpoint has them.

    kind     the reader's name for it, or what the Hub's repository says
    formats  number format -> bytes
    path     where it lies; None: on the Hub
    """

    kind: str
    formats: Mapping[str, int]
    path: Path | None

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.formats.values())


@dataclass(frozen=True)
class Subject:
    """A model to plan for; stored is None for a geometry's name."""

    name: str
    config: ModelConfig
    stored: Stored | None = None

    @property
    def is_pack(self) -> bool:
        """Whether it runs as it is, with nothing to convert."""
        return self.stored is not None and self.stored.kind == "octuor pack"


def find_subject(model: str | Path) -> Subject:
    """Look at a model without loading it.

    Raises CheckpointError, ConfigError or FormatError where it is damaged, unknown, or not of a kind that runs.
    """
    if str(model) in GEOMETRIES and not Path(model).exists():
        return Subject(str(model), GEOMETRIES[str(model)])
    if not Path(model).expanduser().exists() and is_hub_id(str(model)):
        return _on_the_hub(str(model))
    try:
        checkpoint = open_checkpoint(model)
    except CheckpointError as error:
        if Path(model).expanduser().exists():
            raise
        raise CheckpointError(f"{error}; or name a geometry: {', '.join(GEOMETRIES)}") from error
    return Subject(str(model), checkpoint.config, Stored(checkpoint.kind, formats_of(checkpoint), checkpoint.source))


def formats_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of each number format in a checkpoint."""
    found: dict[str, int] = {}
    for name in checkpoint.names:
        weight = checkpoint.get(name)
        found[weight.format.name] = found.get(weight.format.name, 0) + weight.nbytes
    return found


def _on_the_hub(repo_id: str) -> Subject:
    model = find_model(repo_id)
    read = parse_config(model.config, f"{repo_id}/config.json")
    method = read.quantization.get("quant_method") if isinstance(read.quantization, Mapping) else None
    kind = "Hugging Face" if method is None else f"Hugging Face, {method}"
    return Subject(repo_id, read.config, Stored(kind, model.formats, None))
