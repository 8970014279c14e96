"""Checkpoints: weights, config and tokenizer from any known kind of file, and the octuor pack."""

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.open import READERS, open_checkpoint

__all__ = ["READERS", "Checkpoint", "Reader", "open_checkpoint"]
