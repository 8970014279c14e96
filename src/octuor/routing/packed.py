"""A Routing as bytes: NumPy's npz, texts as JSON beside the arrays; nothing in it is ever run."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.errors import RequestError
from octuor.routing.values import Alternatives, Routing

VERSION = 1
MAX_BYTES = 256 << 20  # unpacked: the longest contexts with all alternatives take a tenth


def pack(routing: Routing) -> bytes:
    """See Routing.to_bytes."""
    texts = {
        "version": VERSION,
        "n_experts": routing.n_experts,
        "pieces": routing.pieces,
        "alternatives": routing.alternatives.pieces,
    }
    out = io.BytesIO()
    np.savez_compressed(
        out,
        allow_pickle=False,
        texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
        ids=routing.ids,
        experts=routing.experts,
        weights=routing.weights,
        logprobs=routing.logprobs,
        alternative_ids=routing.alternatives.ids,
        alternative_logprobs=routing.alternatives.logprobs,
    )
    return out.getvalue()


def unpack(data: bytes) -> Routing:
    """See Routing.from_bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            n_bytes = sum(member.file_size for member in file.infolist())
        if n_bytes > MAX_BYTES:
            raise RequestError(f"routing: expected at most {MAX_BYTES} bytes unpacked, found {n_bytes}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _built(arrays)
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        raise RequestError(f"routing: expected what Routing.to_bytes gives, found other bytes ({error})") from error


def _built(arrays: Any) -> Routing:
    texts = json.loads(_array(arrays, "texts").tobytes())
    if texts["version"] != VERSION:
        raise RequestError(f"routing: expected version {VERSION}, found {texts['version']}; update Octuor")
    pieces, others = _texts(texts["pieces"]), tuple(map(_texts, texts["alternatives"]))
    return Routing(
        ids=_array(arrays, "ids"),
        pieces=pieces,
        experts=_array(arrays, "experts"),
        weights=_array(arrays, "weights"),
        n_experts=int(texts["n_experts"]),
        logprobs=_array(arrays, "logprobs"),
        alternatives=Alternatives(_array(arrays, "alternative_ids"), _array(arrays, "alternative_logprobs"), others),
    )


def _array(arrays: Any, name: str) -> NDArray[Any]:
    found = arrays[name]
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{name} is no array")
    return found


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise TypeError("pieces are no texts")
    return tuple(found)
