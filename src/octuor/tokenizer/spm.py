"""A tokenizer read from a SentencePiece model file (tokenizer.model), the form Mistral publishes."""

from pathlib import Path

from octuor.errors import TokenizerError
from octuor.tokenizer.base import BLANK, PieceTable, byte_of_piece, check_text


class SentencePieceTokenizer(PieceTable):
    """A `Tokenizer` over SentencePiece's own encoder.

    source   path of the model file, or its bytes

    Raises TokenizerError if the file cannot be read or is not a SentencePiece model with BOS and EOS.
    """

    def __init__(self, source: Path | str | bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        where = "<bytes>" if isinstance(source, bytes) else str(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{where}: expected a SentencePiece model, cannot read it ({error.strerror}); check the path"
            ) from error
        self._model = SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise TokenizerError(
                f"{where}: expected a SentencePiece model, found {len(data)} bytes that are not one; "
                "fetch the file again (a Git LFS pointer has about 130 bytes)"
            ) from error

        bos_id, eos_id = self._model.bos_id(), self._model.eos_id()
        if bos_id < 0 or eos_id < 0:
            raise TokenizerError(
                f"{where}: expected control pieces for begin and end of text, found {bos_id} and {eos_id}; "
                "use the model's own tokenizer.model"
            )
        names, control_ids = self._read_pieces()
        super().__init__(names, control_ids, bos_id, eos_id)

    def _read_pieces(self) -> tuple[list[bytes], dict[str, int]]:
        ids = list(range(self._model.get_piece_size()))
        names: list[str] = self._model.id_to_piece(ids)
        is_byte: list[bool] = self._model.is_byte(ids)
        is_control: list[bool] = self._model.is_control(ids)
        is_control[self._model.unk_id()] = True  # with byte fallback no text is encoded to it
        pieces = []
        for name, control, byte in zip(names, is_control, is_byte, strict=True):
            if control:
                pieces.append(b"")
            elif byte:
                pieces.append(byte_of_piece(name))
            else:
                pieces.append(name.replace(BLANK, " ").encode("utf-8"))
        return pieces, {names[token_id]: token_id for token_id in ids if is_control[token_id]}

    def encode(self, text: str) -> list[int]:
        check_text(text)
        ids: list[int] = self._model.encode(text)
        return ids
