"""What the rest of Octuor knows about a tokenizer: text to ids, ids to bytes.

The pieces are SentencePiece's: a blank is written inside a piece, every text is encoded as if it began with
one blank, and characters outside the vocabulary fall back to one piece per UTF-8 byte. Nothing here reads
files.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from octuor.errors import RequestError, TokenizerError

BLANK = "▁"  # U+2581, how SentencePiece writes a blank inside a piece


class Tokenizer(Protocol):
    """The seam between text and token ids. Implementations may be used from several threads at once."""

    @property
    def n_words(self) -> int:
        """Number of ids; every id is in [0, n_words). The model's vocab_size may be larger, never smaller."""

    @property
    def bos_id(self) -> int:
        """The control id that begins every prompt."""

    @property
    def eos_id(self) -> int:
        """The control id that ends an assistant's message."""

    def encode(self, text: str) -> list[int]:
        """Ids of a whole text, without BOS or EOS; "" gives [].

        Control text such as "</s>" is encoded as the characters it is made of, never as a control id.

        Raises TokenizerError if the text holds a lone surrogate, which no UTF-8 file or request can carry.
        """

    def decode(self, ids: Iterable[int], *, strip_leading_space: bool = True) -> str:
        """The text of ids: their bytes joined, read as UTF-8 with U+FFFD for what is not.

        strip_leading_space   take one blank from the front, the one that encode adds: decode(encode(t)) is t.
                              False for ids that continue a text.

        Raises RequestError on an id outside [0, n_words).
        """

    def piece_bytes(self, token_id: int) -> bytes:
        """Exactly what one id adds to the text: b"" for control and unknown ids, its byte for a byte piece.

        Raises RequestError on an id outside [0, n_words).
        """

    def is_control(self, token_id: int) -> bool:
        """Whether the id is a mark that no text can produce: BOS, EOS, the unknown id and the like."""

    @property
    def control_ids(self) -> Mapping[str, int]:
        """Name to id of every control token: "<s>", "</s>", "<unk>"; "[INST]" and more in v2 and v3 files."""

    def control_id(self, name: str) -> int | None:
        """The id of the control token of this name ("[INST]" in v2 and v3 files), None if there is none."""


class PieceTable:
    """The half of a tokenizer that does not encode: what each id stands for.

    pieces        bytes of each id, b"" where the id is a control token
    control_ids   name to id of every control token
    """

    def __init__(self, pieces: Sequence[bytes], control_ids: Mapping[str, int], bos_id: int, eos_id: int) -> None:
        self._pieces = tuple(pieces)
        self._control_ids = MappingProxyType(dict(control_ids))
        self._control = frozenset(self._control_ids.values())
        self._bos_id = bos_id
        self._eos_id = eos_id

    @property
    def n_words(self) -> int:
        return len(self._pieces)

    @property
    def bos_id(self) -> int:
        return self._bos_id

    @property
    def eos_id(self) -> int:
        return self._eos_id

    def piece_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._pieces):
            raise RequestError(
                f"token id: expected 0 to {len(self._pieces) - 1}, got {token_id}; is this the model's own tokenizer?"
            )
        return self._pieces[token_id]

    def decode(self, ids: Iterable[int], *, strip_leading_space: bool = True) -> str:
        data = b"".join(map(self.piece_bytes, ids))
        if strip_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", errors="replace")

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control

    @property
    def control_ids(self) -> Mapping[str, int]:
        return self._control_ids

    def control_id(self, name: str) -> int | None:
        return self._control_ids.get(name)


def byte_of_piece(piece: str) -> bytes:
    """The byte that a fallback piece such as "<0x0A>" stands for."""
    return bytes([int(piece[3:5], 16)])


def check_text(text: str) -> None:
    """Raise TokenizerError if text cannot be written as UTF-8, with the place of the first lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text: expected Unicode characters, found the lone surrogate {text[error.start]!a} "
            f"at index {error.start}; replace it or send the whole pair"
        ) from error
