"""octuor routing: a table for people, an object for programs, files, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Terminal, octuor
from octuor.api import load
from octuor.cli import routing
from octuor.routing.colours import expert_tint
from octuor.tools.routing.analysis import analyse
from octuor.tools.routing.texts import Domain
from tiny_models import SCRIPTED, random_checkpoint, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(random_checkpoint(), tmp_path_factory.mktemp("model") / "tiny.octuor")


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    folder = tmp_path / "domains"
    folder.mkdir()
    (folder / "stories.txt").write_text("Once upon a time there was a dog. " * 9)
    (folder / "code.py").write_text("def f(x):\n    return x\n" * 9)
    return folder


def test_a_text_as_a_table(model: Path) -> None:
    done = octuor("routing", "Once upon a time", "--model", model)
    assert done.code == 0, done.err
    assert "first or second" in done.out
    lines = done.out.splitlines()
    assert lines[3].split()[:2] == ["text", "4"]
    assert lines[4].split() == ["random", "25.0", "%", "25.0", "%", "83.3", "%", "83.3", "%"]
    assert "tokens/s" in lines[5]


def test_domains_as_json_and_files(model: Path, domains: Path, tmp_path: Path) -> None:
    done = octuor(
        "routing", "--by-domain", domains, "--model", model, "--layers", "last", "--max-tokens", 50,
        "--csv", tmp_path / "x.csv", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [(domain["name"], domain["tokens"]) for domain in found["domains"]] == [("code", 50), ("stories", 50)]
    assert found["layers"] == [1]
    assert [Path(path).name for path in found["files"]] == ["x-experts.csv", "x-repetition.csv", "x-text.csv"]
    assert all(Path(path).is_file() for path in found["files"])


def test_a_terminal_shows_colours(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 24-bit backgrounds, the tint of each token's first expert before its text."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    found = analyse(load(model), "tiny", [Domain("text", ("a dog",))])
    routing._show(found, [1])
    for piece, expert in zip(found.blocks[0].routing.pieces, found.blocks[0].routing.experts[:, 1, 0], strict=True):
        red, green, blue = (int(expert_tint(int(expert))[at : at + 2], 16) for at in (1, 3, 5))
        assert not piece or f"48;2;{red};{green};{blue}m{piece}" in terminal.getvalue()
    assert "text, layer 1" in terminal.getvalue()
    assert " expert 3 " in terminal.getvalue()


def test_standard_input(model: Path) -> None:
    done = octuor("routing", "-", "--model", model, "--json", stdin="one two three")
    assert json.loads(done.out)["texts"][0]["pieces"][1:] == ["one", " two", " three"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a text, a file or --by-domain, found none"),
        (("x", "--layers", "2"), "layers: expected 0 to 1, found 2"),
        (("x", "--png", "x.pdf"), "--png: expected a file that ends in .png"),
        (("--by-domain", "nowhere"), "nowhere: expected a folder"),
        ((" ",), "expected some text"),
    ],
)
def test_one_line_errors(model: Path, arguments: tuple[str, ...], message: str) -> None:
    done = octuor("routing", *arguments, "--model", model)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_dense_model_has_no_router(tmp_path: Path) -> None:
    done = octuor("routing", "x", "--model", write_model(random_checkpoint(SCRIPTED), tmp_path / "dense.octuor"))
    assert done.code == 1
    assert "has no router" in done.err
