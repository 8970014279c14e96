"""transformers' tokenizer of any model that Octuor reads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import transformers

from octuor.api import POCKET
from octuor.checkpoint import open_checkpoint
from octuor.errors import TokenizerError
from octuor.tools.export.companions import huggingface_tokenizer


class AutoTokenizer:
    """What transformers' own is for."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> Any:
        """The tokenizer of a checkpoint that Octuor opens, as transformers' class; None: the pocket model's.

        kwargs  handed to transformers' AutoTokenizer

        Raises CheckpointError, and TokenizerError where the model has none.
        """
        checkpoint = open_checkpoint(POCKET if pretrained_model_name_or_path is None else pretrained_model_name_or_path)
        files = huggingface_tokenizer(checkpoint)
        if "tokenizer.json" not in files:
            raise TokenizerError(f"{checkpoint.source}: has no tokenizer; put the model's tokenizer.model beside it")
        with tempfile.TemporaryDirectory(prefix="octuor-") as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            found = transformers.AutoTokenizer.from_pretrained(folder, **kwargs)
        found.name_or_path = str(checkpoint.source)
        return found
