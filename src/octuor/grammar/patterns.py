"""Regular expressions as clients write them (ECMAScript, Python) in the syntax the compiler reads (Rust's)."""

from __future__ import annotations

import re

from octuor.errors import GrammarError
from octuor.grammar.wording import shown

_TOKENS = re.compile(r"\\[pPux]\{[^}]*\}|\\.|\{[0-9]+(?:,[0-9]*)?\}|.", re.DOTALL)


def to_rust(pattern: object, where: str) -> str:
    """The same expression in Rust's syntax, where these mean something else than in ECMAScript and Python: "[", "&&"
    and "~~" inside a class are characters there, and so are escaped angle brackets and braces without a number.

    Raises GrammarError if pattern is no text, or ends in the middle of an escape.
    """
    if not isinstance(pattern, str):
        raise GrammarError(f"{where}: expected a regular expression, found {shown(pattern)}")
    out: list[str] = []
    class_at: int | None = None  # where the class began that we are in
    for found in _TOKENS.finditer(pattern):
        token = found[0]
        if token == "\\":
            raise GrammarError(f"{where}: expected a regular expression, found a backslash at its end; double it")
        if class_at is not None:
            out.append(f"\\{token}" if token in "[&~" else token)
            if token == "]" and pattern[class_at : found.start()] not in ("[", "[^"):  # a first "]" is a character
                class_at = None
        elif token == "{":
            out.append("\\{")
        else:
            class_at = found.start() if token == "[" else None
            out.append(token)
        if out[-1] in ("\\<", "\\>"):
            out[-1] = token[1]
    return "".join(out)
