"""What answers are held to: a form, tools, or both, compiled apart from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from octuor.engine.request import Grammar, Matcher
from octuor.grammar import NO_TOOLS, AnswerFormat, ToolUse
from octuor.server.registry import Served


@dataclass(frozen=True)
class Continued:
    """A grammar for the whole of an answer whose beginning is given; `matcher` is past it."""

    grammar: Grammar
    ids: Sequence[int]

    def matcher(self) -> Matcher:
        """A matcher after the beginning. Raises GrammarError where it does not fit."""
        matcher = self.grammar.matcher()
        for token_id in self.ids:
            matcher.advance(token_id)
        return matcher


async def constraint(
    served: Served,
    answer_format: AnswerFormat,
    use: ToolUse = NO_TOOLS,
    *,
    is_chat: bool = True,
    prefix_ids: Sequence[int] = (),
) -> Grammar | None:
    """The grammar of a request's answers; None where they are free.

    prefix_ids  what they begin with

    Raises GrammarError where it cannot be compiled, or where no answer with that beginning matches.
    """
    if answer_format.kind == "text" and use.mode == "none":
        return None

    def compiled() -> Grammar | None:
        grammar = served.compiler.compile(answer_format, use, is_chat=is_chat)
        if grammar is None or not prefix_ids:
            return grammar
        continued = Continued(grammar, prefix_ids)
        continued.matcher()
        return continued

    return await asyncio.get_running_loop().run_in_executor(served.compiling, compiled)
