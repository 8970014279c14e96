"""What programs of transformers run on here: a small folder, no chatter."""

from pathlib import Path

import transformers

from octuor.quant import F32
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.export.huggingface import write_huggingface
from tiny_models import TINY, random_checkpoint


def be_quiet() -> None:
    """Let transformers draw no bars and warn of nothing."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def write_tiny(path: Path) -> Path:
    """A random Mixtral with Mistral's tokenizer."""
    source = random_checkpoint()
    write_huggingface(path, TINY, lambda name: source.get(name).to_f32(), F32, find_mistral_common_tokenizer())
    return path
