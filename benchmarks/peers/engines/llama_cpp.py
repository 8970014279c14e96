"""llama.cpp as its users have it: llama-cpp-python, compiled by pip for this CPU, at its defaults (repacking at load).

The parent makes the environment and the GGUF; the child, in that environment, drives the library through
llama-cpp-python's functions. Prompts and answers are random tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import (
    EngineError,
    Environment,
    PackagedEngine,
    Request,
    Row,
    Subject,
    answer,
    parse_rows,
    read_inside,
)

TYPES = {"q8": "Q8_0", "q6": "Q6_K", "q5": "Q5_K", "q4": "Q4_K", "q3": "Q3_K", "q2": "Q2_K"}
PROMPT_BEFORE = 16  # tokens in each stream before its answer
ROOM = 256  # contexts are multiples of this
BATCH = 2048  # tokens given to a call; the library cuts them to its own 512
SAME = 0.5  # a correlation of two prompts' logits above this: hidden states have collapsed


def gguf_file(subject: Subject, type_name: str | None) -> Path:
    """Where the synthetic GGUF of a subject lies. type_name: ggml's, or TYPE+HEAD; None: that of TYPES."""
    type_name = type_name or TYPES.get(subject.format_name)
    if type_name is None:
        raise EngineError(f"GGUF: expected --format {', '.join(TYPES)}, or --gguf-type; found {subject.format_name}")
    return (subject.work / "models" / f"8x7b-{subject.layers}l-{type_name}.gguf").resolve()


def make_gguf(environment: Environment, subject: Subject, type_name: str | None) -> Path:
    """That file, written if it is not there."""
    path = gguf_file(subject, type_name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        body, _, head = path.stem.rpartition("-")[2].partition("+")
        options = ["--layers", str(subject.layers), "--type", body, *(["--head", head] if head else [])]
        environment.run_module("synthetic_gguf", str(path), *options)
    return path


@dataclass
class LlamaCpp(PackagedEngine):
    """type_name: ggml's, default by TYPES; gguf: a file to use instead of making one (set by the caller)."""

    name: str = "llama_cpp"

    def install(self) -> None:
        self.environment.install(["llama-cpp-python", "gguf"], "llama_cpp, gguf")

    def prepare(self, subject: Subject) -> int:
        self._subject = subject
        if self.gguf is None:
            self.gguf = make_gguf(self.environment, subject, self.type_name)
        self._check()
        return self.gguf.stat().st_size

    def _check(self) -> None:
        """Tokens must stay apart and choose different experts, or every row would flatter."""
        text = self.run(Request(), self.gguf)
        if abs(float(text)) > SAME:
            raise EngineError(
                f"{self.name}: expected logits of two prompts to differ, in {self.gguf} they correlate by {text}; "
                "delete the file to have it written again"
            )

    def describe(self) -> str:
        assert self.gguf is not None
        return f"{self.gguf.name}: llama-cpp-python {self.environment.version('llama-cpp-python')} at its defaults"

    def measure(self, request: Request) -> list[Row]:
        return parse_rows(self.run(request, self.gguf))


class Model:
    """The library with a model loaded; runs in the child."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self.threads = threads
        self._log = llama_cpp.llama_log_callback(_drop)  # kept, or the library would call freed memory
        llama_cpp.llama_log_set(self._log, None)
        llama_cpp.llama_backend_init()
        self.handle = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.handle:
            raise EngineError(f"llama_cpp: expected a model that loads, found {path}")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.handle))


class Session:
    """A context: room for so many streams of so many tokens."""

    def __init__(self, model: Model, n_tokens: int, n_streams: int = 1) -> None:
        self._lib = model.lib
        self.vocab_size = model.vocab_size
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = n_tokens * n_streams, BATCH, n_streams
        params.n_threads = params.n_threads_batch = model.threads
        self._context = self._lib.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(f"llama_cpp: expected memory for {n_streams} x {n_tokens} tokens, found none")
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)

    def clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def decode(self, tokens: list[int], streams: list[int], positions: list[int], *, all_logits: bool) -> None:
        """One forward pass; a token, its stream and its position at each place. Logits of the last or of all."""
        for start in range(0, len(tokens), BATCH):
            n = min(BATCH, len(tokens) - start)
            for i, at in enumerate(range(start, start + n)):
                self._batch.token[i], self._batch.pos[i] = tokens[at], positions[at]
                self._batch.n_seq_id[i], self._batch.seq_id[i][0] = 1, streams[at]
                self._batch.logits[i] = all_logits or at == len(tokens) - 1
            self._batch.n_tokens = n
            if self._lib.llama_decode(self._context, self._batch):
                raise EngineError(f"llama_cpp: expected llama_decode to take {n} tokens, it failed")
        self._lib.llama_synchronize(self._context)

    def logits(self) -> Any:
        """[vocab_size] float32 of the last token."""
        import numpy as np

        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, -1), (self.vocab_size,)).copy()


def _drop(level: int, text: bytes, data: Any) -> None:
    """The loader's log would fill the answer."""


def _room(n_tokens: int) -> int:
    return -(-n_tokens // ROOM) * ROOM


def measure(path: str, threads: int, request: Request) -> list[Row]:
    """The rows of a request, each after a warm-up; in the child."""
    import numpy as np

    rng, model, rows = np.random.default_rng(0), Model(path, threads), []

    def draw(n: int) -> list[int]:
        return [int(token) for token in rng.integers(3, model.vocab_size, n)]

    for n in request.prompts:
        session = Session(model, _room(n))
        session.decode(draw(PROMPT_BEFORE), [0] * PROMPT_BEFORE, list(range(PROMPT_BEFORE)), all_logits=False)
        session.clear()
        tokens, began = draw(n), time.perf_counter()
        session.decode(tokens, [0] * n, list(range(n)), all_logits=False)
        rows.append(Row("prompt", n, 1, n / (time.perf_counter() - began)))
        session.close()
    for n in request.batches:
        session, streams = Session(model, _room(PROMPT_BEFORE + request.answer), n), list(range(n))
        at = [i for i in range(PROMPT_BEFORE) for _ in streams]
        session.decode(draw(len(at)), streams * PROMPT_BEFORE, at, all_logits=False)
        began = time.perf_counter()
        for i in range(PROMPT_BEFORE, PROMPT_BEFORE + request.answer):
            session.decode(draw(n), streams, [i] * n, all_logits=True)
        rows.append(Row("answer", request.answer, n, n * request.answer / (time.perf_counter() - began)))
        session.close()
    return rows


def logits_correlation(path: str, threads: int) -> float:
    """Between the last logits of two random prompts: near 0 in a sound model, near 1 in a collapsed one."""
    import numpy as np

    rng, found = np.random.default_rng(1), []
    session = Session(Model(path, threads), ROOM)
    for _ in range(2):
        session.clear()
        tokens = [int(token) for token in rng.integers(3, session.vocab_size, 32)]
        session.decode(tokens, [0] * 32, list(range(32)), all_logits=False)
        found.append(session.logits())
    return float(np.corrcoef(found)[0, 1])


def main() -> None:
    given, request = read_inside()
    if not request.prompts and not request.batches:
        answer(logits_correlation(given["model"], given["threads"]))
    else:
        answer(measure(given["model"], given["threads"], request))


if __name__ == "__main__":
    main()
