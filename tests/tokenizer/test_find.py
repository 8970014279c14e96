"""Finding the genuine file without importing the package that ships it."""

import hashlib
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from octuor.errors import TokenizerError
from octuor.tokenizer import find

# Mixtral-8x7B-v0.1's tokenizer.model
SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


def test_the_file_is_mixtrals_own() -> None:
    assert hashlib.sha256(find.find_mistral_common_tokenizer().read_bytes()).hexdigest() == SHA256


def test_neither_the_package_nor_the_libraries_are_imported() -> None:
    code = (
        "import sys, octuor.tokenizer as t; t.find_mistral_common_tokenizer();"
        "print(sorted({'mistral_common', 'sentencepiece', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "find_spec", lambda _name: None)
    with pytest.raises(TokenizerError, match="pip install mistral-common"):
        find.find_mistral_common_tokenizer()


def test_a_package_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("mistral_common", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(find, "find_spec", lambda _name: spec)
    with pytest.raises(TokenizerError, match=r"expected a tokenizer\.model\.v1, this mistral-common has none"):
        find.find_mistral_common_tokenizer()
