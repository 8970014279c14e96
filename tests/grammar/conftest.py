"""One compiler for all tests of grammars: the process in which it tries grammars takes a moment to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octuor.grammar import GrammarCompiler
from tokenizer_file import mixtral_tokenizer


@pytest.fixture(scope="session")
def compiler() -> Iterator[GrammarCompiler]:
    """Over Mixtral's own vocabulary."""
    found = GrammarCompiler(mixtral_tokenizer(), 32_000)
    yield found
    found.close()
