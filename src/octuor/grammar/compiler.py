"""Grammars for llguidance out of formats and tools, compiled once and kept.

    V = vocab_size

`CompiledGrammar` and `GrammarMatcher` are what `octuor.engine.request` calls Grammar and Matcher.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octuor.errors import BackendError, GrammarError, OverloadError
from octuor.grammar.lark import GrammarText, answer_grammar
from octuor.grammar.response_format import AnswerFormat, JsonSchema
from octuor.grammar.tools import NO_TOOLS, ToolUse
from octuor.grammar.trial import Trial, TrialLimits, Vocabulary, make_limits, make_tokenizer
from octuor.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_TEXT = 1 << 19  # characters of a grammar: the schemas of all tools together
_WAIT_S = 10.0  # for other new grammars to be compiled
_ENTRY_BYTES = 1 << 18  # a small compiled grammar with the states its answers visit
_TEXT_BYTES = 100  # and a character of its schema
_ERROR_BYTES = 1 << 9
_QUICK_S = 0.02  # of processor time: what an engine may wait for

# What llguidance says in its own terms.
_REASONS = {
    "oneOf constraints are not supported": "oneOf whose branches may hold together; use anyOf, or a constant property "
    "that tells them apart",
    "Current row has": "too many choices at one place; list fewer optional properties or alternatives",
    "NoExtension": "a place where nothing fits",
}


class GrammarCompiler:
    """Compiles and keeps grammars for one model; one for the life of a server. May be used from several threads.

    vocab_size   V of the model; ids from the tokenizer's n_words on are never allowed
    cache_bytes  about how much memory compiled grammars may take; those used longest ago go first
    limits       what compiling one grammar may take

    Methods return at once where the grammar is known; a new one takes about a millisecond, a large one up to a
    second: call them off an event loop. They raise GrammarError for what answers cannot be held to or takes too much
    time or memory, OverloadError where too many new ones come at once, and BackendError where processes cannot be
    started.

    Raises BackendError without llguidance.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        *,
        cache_bytes: int = 1 << 26,
        limits: TrialLimits = TrialLimits(),  # noqa: B008 - frozen
    ) -> None:
        vocabulary = _vocabulary(tokenizer, vocab_size)
        try:
            self._tokenizer = make_tokenizer(vocabulary)
        except ImportError as error:
            raise BackendError(
                "llguidance: expected the package for structured answers, it is not installed; "
                'pip install "octuor[serve]"'
            ) from error
        self._limits = limits
        self._trial = Trial(vocabulary, limits)
        self._trial_lock = threading.Lock()
        self._cache = _Cache(cache_bytes)

    def compile(
        self, answer_format: AnswerFormat, use: ToolUse = NO_TOOLS, *, is_chat: bool = True
    ) -> CompiledGrammar | None:
        """The grammar for what a request asks of its answers; None where it asks for nothing.

        is_chat  allow one blank before the answer: chat text loses it, and "▁{" is how models begin. False where the
                 text is kept as it is
        """
        if answer_format.kind == "text" and use.mode == "none":
            return None
        key = _key(answer_format, use, is_chat=is_chat)
        found = self._cache.get(key)
        if found is None:
            field = answer_format.field if answer_format.kind != "text" else "tools"
            grammar = answer_grammar(answer_format, use, is_chat=is_chat)
            if len(grammar.text) > MAX_TEXT:
                raise GrammarError(f"{field}: expected schemas of at most {MAX_TEXT} characters together; send fewer")
            found = self._compile(key, grammar, field)
        if isinstance(found, GrammarError):
            raise GrammarError(str(found))  # a new one: this may be another thread
        return found

    def json_object(self, *, is_chat: bool = True) -> CompiledGrammar:
        """Any JSON object."""
        return self._given(AnswerFormat("json_object"), is_chat=is_chat)

    def json_schema(self, schema: JsonSchema, *, field: str = "schema", is_chat: bool = True) -> CompiledGrammar:
        """JSON that matches a schema; field is its place in the request, for messages."""
        return self._given(AnswerFormat("json_schema", schema, field=field), is_chat=is_chat)

    def regex(self, pattern: str, *, field: str = "regex", is_chat: bool = True) -> CompiledGrammar:
        """Text that a regular expression matches from end to end."""
        return self._given(AnswerFormat("regex", pattern=pattern, field=field), is_chat=is_chat)

    def close(self) -> None:
        """End the process in which grammars are tried; it starts again when it is needed."""
        with self._trial_lock:
            self._trial.close()

    def _given(self, answer_format: AnswerFormat, *, is_chat: bool) -> CompiledGrammar:
        grammar = self.compile(answer_format, is_chat=is_chat)
        assert grammar is not None
        return grammar

    def _compile(self, key: str, grammar: GrammarText, field: str) -> CompiledGrammar | GrammarError:
        if not self._trial_lock.acquire(timeout=_WAIT_S):
            raise OverloadError(f"{field}: too many new schemas are being compiled; try again", retry_after_s=_WAIT_S)
        try:
            found = self._cache.get(key)  # another thread may have had the same
            if found is None:
                found = self._try(grammar, field)
                self._cache.put(key, found)
            return found
        finally:
            self._trial_lock.release()

    def _try(self, grammar: GrammarText, field: str) -> CompiledGrammar | GrammarError:
        fault = self._trial.fault_of(grammar.text)
        if fault is None:
            return GrammarError(
                f"{field}: expected a grammar that compiles in {self._limits.cpu_s:g} s and "
                f"{self._limits.memory_bytes >> 20} MB, this one does not; make it smaller or less nested"
            )
        if fault:
            where, reason = _explain(fault, grammar.fields)
            return GrammarError(f"{where or field}: expected what answers can be held to, found: {reason}")
        return CompiledGrammar(self._tokenizer, grammar.text)


class CompiledGrammar:
    """A compiled grammar, shared by requests: the states that one answer has visited are ready for the others.

    is_spent  the states have reached their limit, or an answer has failed otherwise: compile it anew for later ones
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self.is_spent = False
        began = time.thread_time()
        self._first = self._make()
        self._is_quick = time.thread_time() - began < _QUICK_S

    def matcher(self) -> GrammarMatcher:
        tokenizer = self._tokenizer
        return GrammarMatcher(self, self._first.deep_copy(), tokenizer.vocab_size, tokenizer.eos_token)

    def again(self) -> LLMatcher | None:
        """A matcher of llguidance that shares nothing with others, for an answer in the middle of which what they
        share has failed; None where that would keep an engine waiting.
        """
        self.is_spent = True
        return self._make() if self._is_quick else None

    def _make(self) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, self._text, log_level=0, limits=make_limits())
        if matcher.is_error():
            raise GrammarError(f"grammar: {_explain(matcher.get_error(), {})[1]}")
        return matcher


class GrammarMatcher:
    """Where one answer stands. Used by one thread at a time; releases the interpreter's lock while it works."""

    def __init__(self, grammar: CompiledGrammar, matcher: LLMatcher, vocab_size: int, eos_id: int) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        self._bits = np.zeros((vocab_size + 31) // 32, dtype="<u4")
        self._ids: list[int] = []
        self._is_alone = False

    def mask(self) -> NDArray[np.bool_]:
        """A new array, as `engine.request.Matcher` says.

        Raises GrammarError where the grammar takes too much time or memory at this place: for this answer only.
        """
        self._fill()
        if self._matcher.is_error():
            self._go_on_alone()
            self._fill()
            self._check()
        bits = self._bits.view(np.uint8)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def advance(self, token_id: int) -> None:
        """As `engine.request.Matcher` says; EOS changes nothing.

        Raises GrammarError if the grammar does not allow the id here, and as mask does.
        """
        if token_id == self._eos_id:
            return
        n_taken = self._matcher.try_consume_tokens([token_id])
        if self._matcher.is_error():
            self._go_on_alone()
            n_taken = self._matcher.try_consume_tokens([token_id])
            self._check()
        if not n_taken:
            raise GrammarError(f"grammar: expected an id that may come after {len(self._ids)} tokens, found {token_id}")
        self._ids.append(token_id)

    def _fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)

    def _go_on_alone(self) -> None:
        """What answers of a grammar share may be full with what the others visited."""
        again = None if self._is_alone else self._grammar.again()
        if again is not None:
            self._is_alone = True
            self._matcher = again
            self._matcher.consume_tokens(self._ids)

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _explain(self._matcher.get_error(), {})[1]
            raise GrammarError(f"grammar: cannot go on after {len(self._ids)} tokens ({reason}); use a simpler one")


class _Cache:
    """Grammars, and what is wrong with others."""

    def __init__(self, n_bytes: int) -> None:
        self._room = n_bytes
        self._n_bytes = 0
        self._found: OrderedDict[str, CompiledGrammar | GrammarError] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> CompiledGrammar | GrammarError | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return None if isinstance(found, CompiledGrammar) and found.is_spent else found

    def put(self, key: str, found: CompiledGrammar | GrammarError) -> None:
        with self._lock:
            if key not in self._found:
                self._n_bytes += _weight(key, found)
            self._found[key] = found
            while self._n_bytes > self._room and len(self._found) > 1:
                self._n_bytes -= _weight(*self._found.popitem(last=False))


def _weight(key: str, found: CompiledGrammar | GrammarError) -> int:
    return _ERROR_BYTES + len(key) if isinstance(found, GrammarError) else _ENTRY_BYTES + _TEXT_BYTES * len(key)


def _key(answer_format: AnswerFormat, use: ToolUse, *, is_chat: bool) -> str:
    """What decides the grammar, and the fields that messages name."""
    schema = [answer_format.kind, answer_format.schema, answer_format.pattern, answer_format.field]
    tools = [[tool.name, tool.parameters, tool.field] for tool in use.callable_tools]
    try:
        return json.dumps([schema, tools, use.mode, use.is_parallel, is_chat])
    except RecursionError as error:
        raise GrammarError(
            f"{answer_format.field}: expected a schema, found one nested too deeply; use $ref"
        ) from error


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """Pieces by id. Ids without text are special, and bytes that are pieces of their own too: no text has them."""
    pieces = [tokenizer.piece_bytes(token_id) for token_id in range(tokenizer.n_words)]
    last = {piece: token_id for token_id, piece in enumerate(pieces)}
    special = [token_id for token_id, piece in enumerate(pieces) if not piece or last[piece] != token_id]
    special += range(len(pieces), vocab_size)
    pieces += [b""] * (vocab_size - len(pieces))
    return Vocabulary(tuple(pieces), tuple(special), tokenizer.bos_id, tokenizer.eos_id)


def _explain(fault: str, fields: dict[int, str]) -> tuple[str | None, str]:
    """The field that llguidance's message is about, if any, and its reason in one line."""
    found = re.match(r"at (\d+)\(\d+\): (?:failed to compile (?:JSON schema|regex): )?", fault)
    field = fields.get(int(found[1])) if found else None
    reason = fault[found.end() :] if found else fault
    reason = re.split(r"\n\s+\d+ \| |\n<state>|\n<non-verbose", reason)[0]
    if "regex parse error" in reason:  # with the whole expression and a mark below it
        reason = f"an expression that is none: {reason.rpartition('error: ')[2]}"
    reason = next((own for theirs, own in _REASONS.items() if theirs in reason), reason)
    return field, " ".join(reason.split())[:300]
