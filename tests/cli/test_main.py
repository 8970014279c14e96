"""The command itself: help, usage errors, and how any error ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import octuor as package
from command_line import environment, octuor, program
from octuor.cli import COMMANDS
from tiny_models import SCRIPTED, scripted_checkpoint, write_model


def test_version() -> None:
    assert octuor("--version") == (0, f"{package.__version__}\n", "")


def test_help_lists_the_commands() -> None:
    done = octuor("--help")
    assert done.code == 0
    assert all(f" {command} " in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = octuor(command, "--help")
    assert done.code == 0
    assert f"octuor {command}" in done.out


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["convert", "--help"]])
def test_help_needs_no_library(args: list[str]) -> None:
    code = (
        "import sys\n"
        "from octuor.cli import app\n"
        "app(standalone_mode=False)\n"
        "sys.exit(str(heavy) if (heavy := {'numpy', 'torch', 'sentencepiece'} & sys.modules.keys()) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["sing"], "No such command 'sing'"),
        (["info", "--loud"], "No such option"),
        (["generate", "--temperature", "hot"], "Invalid value for '--temperature'"),
        (["generate", "--threads", "0"], "Invalid value for '--threads'"),
        (["convert", "only-one"], "Missing argument"),
        (["synth"], "Missing argument"),
        (["train", "recipe.toml"], "Missing option"),
        (["info", "one", "two"], "unexpected extra argument"),
    ],
)
def test_usage_errors_exit_2(args: list[str], says: str) -> None:
    done = octuor(*args)
    assert done.code == 2
    assert done.out == ""
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_no_command_shows_the_help() -> None:
    done = octuor()
    assert done.code == 2
    assert "generate" in done.out + done.err


def test_an_error_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """As a program, so that nothing else prints either."""
    done = subprocess.run(
        program("info", tmp_path / "none.octuor"), capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"octuor: {tmp_path / 'none.octuor'}: no such file or folder")
    assert done.stderr.count("\n") == 1


def test_python_m_octuor() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "octuor", "--version"], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{package.__version__}\n")


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    """As in `octuor generate | head`."""
    path = write_model(scripted_checkpoint([700, 701], SCRIPTED, then=700), tmp_path / "endless.octuor")
    command = program("generate", path, "--ids", "1", "--max-tokens", 4000, "--temperature", 0, "--threads", 1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == b""
