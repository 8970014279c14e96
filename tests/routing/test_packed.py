"""A Routing as bytes and back, and bytes that are none."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from octuor.errors import OctuorError, RequestError
from octuor.routing import Routing, packed


def assert_same(found: Routing, expected: Routing) -> None:
    assert (found.pieces, found.n_experts) == (expected.pieces, expected.n_experts)
    assert found.routes == expected.routes
    assert found.alternatives.pieces == expected.alternatives.pieces
    for name in ("ids", "logprobs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_array_equal(getattr(found.alternatives, name), getattr(expected.alternatives, name))


def test_what_is_packed_comes_back(small: Routing) -> None:
    assert_same(Routing.from_bytes(small.to_bytes()), small)


def unpacked(data: bytes) -> Routing | str:
    """What the bytes hold, or what is said of them."""
    try:
        return Routing.from_bytes(data)
    except OctuorError as error:
        return str(error)


def test_any_broken_bytes_are_refused_in_one_line(small: Routing) -> None:
    data = small.to_bytes()
    rng = np.random.default_rng(0)
    for n in range(200):
        broken = bytearray(data[: rng.integers(len(data))] if n % 4 == 0 else data)
        for at in rng.integers(0, max(len(broken), 1), 3):
            if broken:
                broken[at] = rng.integers(256)
        found = unpacked(bytes(broken))
        assert "\n" not in found if isinstance(found, str) else len(found) == 3


def test_pickles_are_not_run() -> None:
    out = io.BytesIO()
    np.savez(out, texts=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError, match=r"expected what Routing\.to_bytes gives"):
        Routing.from_bytes(out.getvalue())


def test_too_much_is_not_unpacked(small: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_BYTES", 100)
    with pytest.raises(RequestError, match="expected at most 100 bytes unpacked"):
        Routing.from_bytes(small.to_bytes())


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"pieces": "abc"}, {"pieces": [1, 2, 3]}, {"alternatives": 5}, {"n_experts": "x"}]
)
def test_other_texts_are_refused(small: Routing, change: dict) -> None:
    source, out = zipfile.ZipFile(io.BytesIO(small.to_bytes())), io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in source.namelist():
            data = source.read(name)
            if name == "texts.npy":
                texts = json.loads(np.load(io.BytesIO(data)).tobytes()) | change
                part = io.BytesIO()
                np.save(part, np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8))
                data = part.getvalue()
            file.writestr(name, data)
    with pytest.raises(RequestError):
        Routing.from_bytes(out.getvalue())
