"""Text out of ids one at a time, as a model makes them.

A byte piece may be a third of a character and a piece may begin with the blank that belongs to the text, so
pieces cannot be decoded alone. `Detokenizer` keeps the bytes of the unfinished character, three at most.
"""

import codecs

from octuor.tokenizer.base import Tokenizer


class Detokenizer:
    """Incremental `Tokenizer.decode`: all that push and flush return, joined, is decode of all the ids.

    strip_leading_space   as in `Tokenizer.decode`: True for a chat reply (its first piece is "▁Hi"), False
                          where the ids continue a text
    """

    def __init__(self, tokenizer: Tokenizer, *, strip_leading_space: bool = True) -> None:
        self._tokenizer = tokenizer
        self._strip = strip_leading_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is certain after one more id: whole characters, U+FFFD once bytes cannot become one.

        Takes constant time. Raises RequestError on an id outside the tokenizer's range.
        """
        data = self._tokenizer.piece_bytes(token_id)
        if self._strip and data:
            data = data.removeprefix(b" ")
            self._strip = False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The end of the text: "" or U+FFFD for a character that never became whole. Call it once, last."""
        return self._decoder.decode(b"", final=True)
