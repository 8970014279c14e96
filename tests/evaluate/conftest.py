"""Models under test that say what they are told to, and questions' files of a few rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from octuor.api import Model
from octuor.evaluate.subject import Subject
from octuor.ops.native import NativeOps
from octuor.tokenizer import find_mistral_common_tokenizer, open_tokenizer
from tiny_models import TINY, random_checkpoint, scripted_checkpoint
from under_test import Says, WriteRows


@pytest.fixture(scope="session")
def random_model() -> Model:
    return Model(random_checkpoint(TINY), NativeOps(threads=2), context=512, cache_dtype="f16")


@pytest.fixture
def subject(random_model: Model) -> Subject:
    """A model with random weights and 512 tokens of context."""
    return Subject(random_model)


@pytest.fixture
def says() -> Says:
    """A model that answers every prompt with this text; no token may come twice in it."""

    def make(text: str) -> Subject:
        path = find_mistral_common_tokenizer()
        ids = open_tokenizer(path).encode(text)
        return Subject(Model(scripted_checkpoint(ids), NativeOps(threads=1), context=1024, cache_dtype="f16"))

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as a JSON Lines file of the data folder tmp_path."""

    def write(name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
