"""Pickles of plain data are read as pickle reads them; all others end at a message."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from octuor.checkpoint import pickle_reader
from octuor.checkpoint.pickle_reader import Global, read_pickle
from octuor.errors import CheckpointError
from torch_files import number


def read(data: bytes) -> Any:
    """The value of a pickle whose calls and persistent ids are kept as they are."""

    def call(name: str, args: tuple[Any, ...]) -> Any:
        return {} if name == "collections OrderedDict" else (name, args)

    return read_pickle(data, 0, "x", call, lambda given: ("id", given))[0]


VALUE = {
    "a": [1, -1, 255, 256, 65536, -(2**70), 2.5, None, True, False],
    3: ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "é": {},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_read_as_pickle_reads_it(protocol: int) -> None:
    assert read(pickle.dumps(VALUE, protocol)) == VALUE


def test_attributes_of_dicts_are_dropped() -> None:
    state = OrderedDict(a=1)
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    assert read(pickle.dumps(state, 2)) == {"a": 1}


def test_names_are_not_looked_up() -> None:
    assert read(b"\x80\x02cno.such.module\nthing\n.") == Global("no.such.module thing")
    assert read(pickle.dumps(os.system, 4)) == Global("posix system")


def test_several_pickles_follow_each_other() -> None:
    data = pickle.dumps(1, 2) + pickle.dumps(2, 2)
    first, end = read_pickle(data, 0, "x", lambda *_: None, lambda _: None)
    assert (first, read_pickle(data, end, "x", lambda *_: None, lambda _: None)) == (1, (2, len(data)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its end"),
        (b"\x80\x02", "its end"),
        (b"\x80\x02K", "its end"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\x80\x02.", "without its operands"),
        (b"\x80\x020.", "without its operands"),
        (b"\x80\x02q\x00.", "without its operands"),
        (b"\x80\x02h\x07.", "a reference to nothing"),
        (b"\x80\x02t.", "without its mark"),
        (b"\x80\x02NK\x01a.", "for a list without one"),
        (b"\x80\x02]K\x01K\x02s.", "for a dict without one"),
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02}(K\x01NK\x01Nu.", "two values for the key '1'"),
        (b"\x80\x02}(G\x00\x00\x00\x00\x00\x00\x00\x00Nu.", "a key that is a float"),
        (b"\x80\x02NN\x93.", "a global whose name is no text"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "its end where 4294967295 bytes"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "not UTF-8"),
        (b"\x80\x02c" + b"a" * 300, "a line without an end"),
        (b"\x80\x02cos\nsystem", "a line without an end"),
        (b"\x80\x02]N\x85R.", "a call of something that is no global"),
        (b"\x80\x02ccollections\nOrderedDict\nNR.", "a call of something that is no global"),
        (b"\x80\x02cos\nsystem\n}b.", "for a dict without one"),
        (b"\x80\x02csubprocess\nPopen\n)\x81.", r"instruction b'\\x81', which tensors do not need"),
        (b"\x80\x02\x82\x01.", "which tensors do not need"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "which tensors do not need"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "which tensors do not need"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f1.", "which tensors do not need"),
        (b"\x80\x02I" + b"9" * 100_000 + b"\n.", "which tensors do not need"),
    ],
)
def test_what_is_wrong_is_placed(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(data)


def test_a_bomb_of_keys_is_refused() -> None:
    """A tuple of twice the tuple before, 80 times over, takes for ever to hash."""
    doubling = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(80))
    with pytest.raises(CheckpointError, match="a key that is a tuple"):
        read(b"\x80\x02)q\x00" + doubling + b"q\xff0}h\xffNs.")


def test_a_memo_may_have_any_index() -> None:
    """pickle.Unpickler makes room for all below: 32 GB for this one."""
    assert read(b"\x80\x02K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5


def test_nesting_has_no_depth() -> None:
    value = read(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
    assert len(value) == 1


def test_instructions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_STEPS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 instructions"):
        read(b"\x80\x02" + b"N0" * 1000 + b"N.")


def test_numbers_of_any_length() -> None:
    assert read(b"\x80\x02" + number(-(2**70)) + b".") == -(2**70)
