"""Markdown as a chat should show it: what looks like HTML in a message is text, and stays one when it is copied.

Markdown lets HTML through; in a browser `<div>` then disappears from an answer, or worse, takes effect. A character
without width behind the `<` makes text of it. Code and formulas are left alone, where `<` is one anyway. page.js takes
the character out of what is copied.
"""

from __future__ import annotations

import re

JOINER = "\u2060"  # WORD JOINER
# what is opened is looked for within 1,000 characters, so that the time grows with the length and not its square
_PARTS = re.compile(
    r"""
    (?P<kept>
        ^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n]*(?:\n.*?(?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|\Z)|\Z)
      | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n[ \t]*\n).){1,1000}?(?<!`)(?P=ticks)(?!`)
      | \$\$.{1,1000}?\$\$ | \\\[.{1,1000}?\\\] | \\\(.{1,1000}?\\\)
      | \$(?=[^\s$])[^$\n]*\$
      | <(?:https?://|mailto:)[^\s<>]*>
    )
  | <(?=[A-Za-z/!?])
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def without_html(text: str) -> str:
    """The text with its HTML as text. Given a part of an answer, it takes code and formulas as if they went on."""
    return text if "<" not in text else _PARTS.sub(lambda part: part["kept"] or f"<{JOINER}", text)


def as_written(text: str) -> str:
    """What `without_html` was given."""
    return text.replace(f"<{JOINER}", "<")
