"""Regular expressions as clients write them (ECMAScript, Python) in the syntax the compiler reads (Rust's)."""

from __future__ import annotations

from octuor.errors import GrammarError
from octuor.grammar.wording import shown


def to_rust(pattern: object, where: str) -> str:
    """The same expression in Rust's syntax, where these mean something else than in ECMAScript and Python: "[", "&&"
    and "~~" inside a class are characters there, and so are escaped angle brackets.

    Raises GrammarError if pattern is no text, or ends in the middle of an escape.
    """
    if not isinstance(pattern, str):
        raise GrammarError(f"{where}: expected a regular expression, found {shown(pattern)}")
    out: list[str] = []
    is_escaped = False
    class_at: int | None = None  # where the class began that we are in
    for at, char in enumerate(pattern):
        if is_escaped:
            out.append(char if char in "<>" else f"\\{char}")
            is_escaped = False
        elif char == "\\":
            is_escaped = True
        elif class_at is None:
            out.append(char)
            class_at = at if char == "[" else None
        else:
            out.append(f"\\{char}" if char in "[&~" else char)
            if char == "]" and pattern[class_at:at] not in ("[", "[^"):  # a first "]" is a character
                class_at = None
    if is_escaped:
        raise GrammarError(f"{where}: expected a regular expression, found a backslash at its end; double it")
    return "".join(out)
