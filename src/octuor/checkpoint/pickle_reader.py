"""Pickles of plain data and a few named things, read without running anything.

A pickle is a program for a stack machine that may call any function of any module. This machine has the instructions
that state dicts need and no others. A name of a module (GLOBAL) stays a name, a call (REDUCE) is handed to the caller
as that name with its arguments, and nothing is imported, looked up or called because a file says so.

Own code beside pickle.Unpickler, whose find_class can be limited but not its other instructions: it sets attributes
(BUILD), allocates what the file asks for (LONG_BINPUT), and hashes keys nested as deep as a file likes.

Source: CPython's Lib/pickletools.py
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octuor.errors import CheckpointError

MAX_BYTES = 32 << 20  # a state dict of 10,000 tensors takes 2 MB
MAX_STEPS = 2_000_000  # instructions; what each makes is small, so that memory is bounded by them

Call = Callable[[str, tuple[Any, ...]], Any]
Persistent = Callable[[Any], Any]


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to, "module name"; nothing was looked up."""

    name: str


def read_pickle(data: bytes, start: int, where: str, call: Call, persistent: Persistent) -> tuple[Any, int]:
    """The value of the pickle that begins at byte `start`, and where it ends.

    call        a global's name and its arguments -> what that call gives; for REDUCE
    persistent  a persistent id -> what it stands for
    where       names the file in errors

    Values are None, bool, int, float, str, tuple, list, dict with keys of str or int, Global, and what `call` and
    `persistent` return. Raises CheckpointError on any other instruction, on damage, and beyond MAX_STEPS.
    """
    machine = _Machine(data, start, where, call, persistent)
    return machine.run(), machine.at


class _Machine:
    """The stack machine: a stack, the stacks below each mark, and the memo."""

    def __init__(self, data: bytes, start: int, where: str, call: Call, persistent: Persistent) -> None:
        self.data, self.at, self.where = data, start, where
        self.call, self.persistent = call, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.is_done = False

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            step = _STEPS.get(code)
            if step is None:
                raise self.bad(f"the instruction {code!r}, which tensors do not need")
            step(self)
            if self.is_done:
                return self.pop()
        raise self.bad(f"more than {MAX_STEPS} instructions")

    def bad(self, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: expected a pickle of tensors alone, found {found} (byte {self.at}); "
            "nothing of it was run; get safetensors from someone you trust"
        )

    def take(self, n: int) -> bytes:
        piece = self.data[self.at : self.at + n]
        if len(piece) != n:
            raise self.bad(f"its end where {n} bytes should be")
        self.at += n
        return piece

    def unpack(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise self.bad("a line without an end")
        raw = self.take(end + 1 - self.at)[:-1]
        return self.text(raw)

    def text(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.bad("text that is not UTF-8") from error

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self.bad("an instruction without its operands")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top, left there, if it is of this kind."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.bad(f"an instruction for a {kind.__name__} without one")
        return self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """All values above the last mark."""
        if not self.below:
            raise self.bad("an instruction without its mark")
        values, self.stack = self.stack, self.below.pop()
        return values

    def tuple_of(self, n: int) -> None:
        values = [self.pop() for _ in range(n)]
        self.push(tuple(reversed(values)))

    def put(self, index: int) -> None:
        if not self.stack:
            raise self.bad("an instruction without its operands")
        self.memo[index] = self.stack[-1]

    def memoize(self) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.bad("a reference to nothing")
        self.push(self.memo[index])

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise self.bad("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # a key of nested tuples would take for ever to hash
            if type(key) is not str and type(key) is not int:
                raise self.bad(f"a key that is a {type(key).__name__}")
            if key in target:
                raise self.bad(f"two values for the key {str(key)[:80]!r}")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self) -> None:
        values = self.pop_mark()
        self.top(list).extend(values)

    def refer(self) -> None:
        self.push(Global(f"{self.line()} {self.line()}"))

    def refer_to_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise self.bad("a global whose name is no text")
        self.push(Global(f"{module} {name}"))

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if type(function) is not Global or type(args) is not tuple:
            raise self.bad("a call of something that is no global")
        self.push(self.call(function.name, args))

    def build(self) -> None:
        """Attributes of a dict, which state dicts have: dropped."""
        self.pop()
        self.top(dict)

    def resolve(self) -> None:
        self.push(self.persistent(self.pop()))

    def stop(self) -> None:
        self.is_done = True


def _wide(machine: _Machine, layout: str) -> str:
    return machine.text(machine.take(machine.unpack(layout)))


def _long(machine: _Machine) -> int:
    return int.from_bytes(machine.take(machine.unpack("<B")), "little", signed=True)


def _protocol(machine: _Machine) -> None:
    if (version := machine.unpack("<B")) > 5:
        raise machine.bad(f"protocol {version}, which is newer than 5")


_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.take(8),  # FRAME: a length for readers of streams
    b".": _Machine.stop,
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.unpack("<B")),
    b"M": lambda m: m.push(m.unpack("<H")),
    b"J": lambda m: m.push(m.unpack("<i")),
    b"\x8a": lambda m: m.push(_long(m)),
    b"G": lambda m: m.push(m.unpack(">d")),
    b"X": lambda m: m.push(_wide(m, "<I")),
    b"\x8c": lambda m: m.push(_wide(m, "<B")),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"]": lambda m: m.push([]),
    b"a": _Machine.append,
    b"e": _Machine.extend,
    b"}": lambda m: m.push({}),
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"q": lambda m: m.put(m.unpack("<B")),
    b"r": lambda m: m.put(m.unpack("<I")),
    b"\x94": _Machine.memoize,
    b"h": lambda m: m.get(m.unpack("<B")),
    b"j": lambda m: m.get(m.unpack("<I")),
    b"c": _Machine.refer,
    b"\x93": _Machine.refer_to_stack,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.resolve,
}
