"""Where strangers' grammars are compiled first: a child process that may die of them.

Compiling cannot be interrupted, and there are grammars that take minutes, gigabytes or all of the stack. A child that
is limited in each finds them out, and costs a millisecond for a good one. This file is also the program the child
runs, so it imports nothing of Octuor.

Messages are 4 bytes of length, little-endian, and UTF-8. To the child: first a JSON object with the vocabulary and
the limits, then grammars; back: "" when it is ready, then for each grammar what is wrong with it, "" if nothing is.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_STACK_BYTES = 1 << 20  # less than any thread has that will compile the grammar after its trial
_START_S = 60.0  # for the child to start, on a busy machine
_STEPS = 8  # of an answer that are tried: some grammars fail only there


@dataclass(frozen=True)
class TrialLimits:
    """What one grammar may take: cpu_s of processor time, wall_s of waiting in all, memory_bytes while it compiles."""

    cpu_s: float = 1.0
    wall_s: float = 10.0
    memory_bytes: int = 1 << 28


@dataclass(frozen=True)
class Vocabulary:
    """What llguidance needs to know of a tokenizer. pieces has one entry an id; those in special stand for no text."""

    pieces: tuple[bytes, ...]
    special: tuple[int, ...]
    bos_id: int
    eos_id: int


class Trial:
    """The child, started when it is first needed and again after it has died. Used by one thread at a time."""

    def __init__(self, vocabulary: Vocabulary, limits: TrialLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def fault_of(self, grammar: str) -> str | None:
        """What llguidance says is wrong with a grammar, "" where nothing is; None where it took too much.

        Raises BackendError where the child cannot be started.
        """
        for _ in range(2):
            child = self._child if self._child is not None and self._child.poll() is None else self._start()
            fault = _ask(child, grammar, self._limits.wall_s)
            if fault is not None:
                return fault
            self.close()
            if child.returncode:  # else it had ended by itself before it was asked
                break
        return None

    def close(self) -> None:
        """End the child."""
        self._end()
        self._child = None

    def _start(self) -> subprocess.Popen[bytes]:
        from octuor.errors import BackendError  # the child, which runs this file, does without

        self.close()
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__))],  # -P: or this folder would hide standard modules
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the server
            )
        except OSError as error:
            raise BackendError(f"grammars: expected to start a process that tries them, cannot ({error})") from error
        self._child = child
        self._end = weakref.finalize(self, _end, child)
        vocabulary = {
            **asdict(self._vocabulary),
            "pieces": [piece.decode("latin-1") for piece in self._vocabulary.pieces],
        }
        fault = _ask(child, json.dumps({"vocabulary": vocabulary, "limits": asdict(self._limits)}), _START_S)
        if fault is None:
            raise BackendError("grammars: expected the process that tries them to start, it ended; is there memory?")
        return child


def make_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's view of a vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    source = _Source()
    # names of their own: several ids with the same bytes are one to it
    special = {token_id: b"\xff<%d>" % token_id for token_id in vocabulary.special}
    source.tokens = [special.get(token_id, piece) for token_id, piece in enumerate(vocabulary.pieces)]
    source.special_token_ids = list(vocabulary.special)
    source.bos_token_id, source.eos_token_id = vocabulary.bos_id, vocabulary.eos_id
    return LLTokenizer(TokenizerWrapper(source), eos_token=vocabulary.eos_id, slices=LLTokenizer.json_slices())


class _Source:
    """What llguidance's TokenizerWrapper wraps. It encodes nothing: our grammars never force text."""

    tokens: list[bytes]
    special_token_ids: list[int]
    bos_token_id: int
    eos_token_id: int

    def __call__(self, text: object) -> list[int]:  # noqa: ARG002 - the wrapper's interface
        return []


def make_limits() -> Any:
    """What llguidance may take for one grammar and for one mask."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_lexer_states=50_000,  # about 2 kB each
        max_grammar_size=200_000,
        step_lexer_fuel=200_000,  # about 15 ms
        verbose_errors=False,
    )


# ---- messages ------------------------------------------------------------------------------------


def _ask(child: subprocess.Popen[bytes], message: str, timeout_s: float) -> str | None:
    """The child's answer; None if it has died or takes too long."""
    assert child.stdin is not None
    assert child.stdout is not None
    deadline = time.monotonic() + timeout_s
    try:
        _write(child.stdin, message)
    except BrokenPipeError:
        return None
    head = _read(child.stdout, 4, deadline)
    body = None if head is None else _read(child.stdout, struct.unpack("<I", head)[0], deadline)
    return None if body is None else body.decode()


def _write(stream: IO[bytes], message: str) -> None:
    data = memoryview(struct.pack("<I", len(message.encode())) + message.encode())
    while data:
        data = data[stream.write(data) or 0 :]


def _read(stream: IO[bytes], n_bytes: int, deadline: float | None = None) -> bytes | None:
    """Exactly n_bytes; None at the end of the stream or after the deadline."""
    data = b""
    while len(data) < n_bytes:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([stream], [], [], left_s)
        more = stream.read(n_bytes - len(data)) if ready else b""
        if not more:
            return None
        data += more
    return data


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


# ---- the child -----------------------------------------------------------------------------------


def _serve() -> None:
    source, sink = os.fdopen(0, "rb", buffering=0), os.fdopen(1, "wb", buffering=0)

    def receive() -> str | None:
        head = _read(source, 4)
        body = None if head is None else _read(source, struct.unpack("<I", head)[0])
        return None if body is None else body.decode()

    given = json.loads(receive() or "{}")
    given["vocabulary"]["pieces"] = [piece.encode("latin-1") for piece in given["vocabulary"]["pieces"]]
    tokenizer = make_tokenizer(Vocabulary(**given["vocabulary"]))
    limits = TrialLimits(**given["limits"])
    used = _mapped_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory_bytes, used + limits.memory_bytes))
    _write(sink, "")
    while (grammar := receive()) is not None:
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)  # ends the process, whatever it is doing
        fault = _try(tokenizer, grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, fault)
        if _mapped_bytes() > used + limits.memory_bytes // 2:  # what is left behind must not be the next one's fault
            break


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _try(tokenizer: LLTokenizer, grammar: str) -> str:
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=make_limits())
    for _ in range(_STEPS):
        if matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        lowest = (mask & -mask).bit_length() - 1
        if matcher.is_error() or not matcher.consume_token(lowest):
            break
    return matcher.get_error()


if __name__ == "__main__":
    threading.stack_size(_STACK_BYTES)
    child = threading.Thread(target=_serve)
    child.start()
    child.join()
