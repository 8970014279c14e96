"""Text to token ids and back, and the Instruct chat format. Nothing is imported until a file is opened."""

from octuor.tokenizer.base import Tokenizer
from octuor.tokenizer.find import find_mistral_common_tokenizer
from octuor.tokenizer.instruct import AnyMessage, Message, Turn, as_message, encode_chat, encode_prompt, encode_turns
from octuor.tokenizer.registry import open_tokenizer
from octuor.tokenizer.stream import Detokenizer

__all__ = [
    "AnyMessage",
    "Detokenizer",
    "Message",
    "Tokenizer",
    "Turn",
    "as_message",
    "encode_chat",
    "encode_prompt",
    "encode_turns",
    "find_mistral_common_tokenizer",
    "open_tokenizer",
]
