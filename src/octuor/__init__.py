"""Octuor runs Mixtral and its family on the machine you have.

import octuor

model = octuor.load("mixtral.octuor")
for token in model.chat([{"role": "user", "content": "Hello"}]):
    print(token.text, end="", flush=True)

Importing this package imports nothing heavy; names are looked up when they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octuor.api import Model, load
    from octuor.config import ModelConfig
    from octuor.errors import OctuorError
    from octuor.generate import Generation, Token, Usage
    from octuor.routing.values import Routing
    from octuor.sampling import SamplingParams
    from octuor.tokenizer import Message

__version__ = "0.1.0"

__all__ = [
    "Generation",
    "Message",
    "Model",
    "ModelConfig",
    "OctuorError",
    "Routing",
    "SamplingParams",
    "Token",
    "Usage",
    "load",
]

_HOME = {
    "Generation": "octuor.generate",
    "Message": "octuor.tokenizer",
    "Model": "octuor.api",
    "ModelConfig": "octuor.config",
    "OctuorError": "octuor.errors",
    "Routing": "octuor.routing.values",
    "SamplingParams": "octuor.sampling",
    "Token": "octuor.generate",
    "Usage": "octuor.generate",
    "load": "octuor.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'octuor' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
