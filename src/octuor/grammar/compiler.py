"""Grammars for llguidance out of formats and tools, compiled once and kept.

    V = vocab_size

`CompiledGrammar` and `GrammarMatcher` are what `octuor.engine.request` calls Grammar and Matcher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octuor.grammar.response_format import AnswerFormat, JsonSchema
from octuor.grammar.tools import NO_TOOLS, ToolUse
from octuor.tokenizer import Tokenizer


class GrammarCompiler:
    """Compiles and keeps grammars for one model; one for the life of a server. May be used from several threads.

    vocab_size   V of the model; ids from the tokenizer's n_words on are never allowed
    cache_bytes  about how much memory compiled grammars may take; those used longest ago go first

    Every method below returns at once where it has the grammar already; a new one takes about a millisecond, a large
    one up to a second: call them off an event loop. They raise GrammarError for what cannot be held or takes too much
    time or memory, and BackendError without llguidance.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, cache_bytes: int = 1 << 26) -> None:
        raise NotImplementedError

    def compile(
        self, answer_format: AnswerFormat, use: ToolUse = NO_TOOLS, *, is_chat: bool = True
    ) -> CompiledGrammar | None:
        """The grammar for what a request asks of its answers; None where it asks for nothing.

        is_chat  allow one blank before the answer, which chat text loses ("▁{" is a model's natural beginning). False
                 where the text keeps it and an expression must match the whole text
        """
        raise NotImplementedError

    def json_object(self, *, is_chat: bool = True) -> CompiledGrammar:
        """Any JSON object."""
        raise NotImplementedError

    def json_schema(self, schema: JsonSchema, *, field: str = "schema", is_chat: bool = True) -> CompiledGrammar:
        """JSON that matches a schema; field is its place in the request, for messages."""
        raise NotImplementedError

    def regex(self, pattern: str, *, field: str = "regex", is_chat: bool = True) -> CompiledGrammar:
        """Text that a regular expression matches from end to end."""
        raise NotImplementedError


class CompiledGrammar:
    """A compiled grammar, shared by requests."""

    def matcher(self) -> GrammarMatcher:
        """A matcher at the beginning of an answer."""
        raise NotImplementedError


class GrammarMatcher:
    """Where one answer stands. Used by one thread at a time; releases the interpreter's lock while it works."""

    def mask(self) -> NDArray[np.bool_]:
        """[V] bool: the ids that may come next, EOS where the answer may end. A new array.

        Raises GrammarError where the grammar takes too much time or memory at this place: for this answer only.
        """
        raise NotImplementedError

    def advance(self, token_id: int) -> None:
        """Take one id that mask allowed; EOS changes nothing.

        Raises GrammarError if the grammar does not allow the id here.
        """
        raise NotImplementedError
