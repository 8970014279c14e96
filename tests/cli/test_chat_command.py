"""octuor chat, from a pipe and in a terminal: its answers, its commands, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from command_line import environment, octuor, program
from octuor.tokenizer import encode_chat
from tiny_models import SCRIPTED, scripted_checkpoint, write_model
from tokenizer_file import mixtral_tokenizer

ENDLESS = replace(SCRIPTED, max_seq_len=1_000_000)  # more tokens than any test waits for
GIVE_UP_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack that answers everything with "Hi there."."""
    script = mixtral_tokenizer().encode("Hi there.")
    return write_model(scripted_checkpoint(script), tmp_path_factory.mktemp("chat") / "hi.octuor")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose answers do not end."""
    script = mixtral_tokenizer().encode("on and")
    checkpoint = scripted_checkpoint(script, ENDLESS, then=script[0])
    return write_model(checkpoint, tmp_path_factory.mktemp("chat") / "endless.octuor")


def saved(path: Path) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(path.read_text(encoding="utf-8"))]


def test_lines_from_a_pipe_are_answered_in_turn(model: Path) -> None:
    done = octuor("chat", model, "--temperature", 0, stdin="Hello\n\n   \nAnd you?\nlast, without an end")
    assert done == (0, "Hi there.\n" * 3, "")


def test_save_writes_the_conversation(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "my talk.json"
    done = octuor(
        "chat",
        model,
        "--system",
        "Be kind.",
        "--temperature",
        0,
        stdin=f"Grüß dich\n/save {target}\nMore\n/save {target}",
    )
    assert done == (0, "Hi there.\n" * 2, f"saved {target}\n" * 2)
    assert saved(target) == [
        ("system", "Be kind."),
        ("user", "Grüß dich"),
        ("assistant", "Hi there."),
        ("user", "More"),
        ("assistant", "Hi there."),
    ]
    assert "ü" in target.read_text(encoding="utf-8")


def test_save_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    done = octuor("chat", model, stdin=f"/save\n/save {tmp_path}\n/save {tmp_path / 'no' / 'x.json'}\nHello\n")
    assert done.code == 0
    assert done.out == "Hi there.\n"
    first, second, third = done.err.splitlines()
    assert "expected a file name" in first
    assert f"{tmp_path} cannot be written (Is a directory)" in second
    assert "(No such file or directory)" in third


def test_reset_forgets_and_system_begins_anew(model: Path, tmp_path: Path) -> None:
    steps = [
        "One",
        "/reset",
        "Two",
        "/save a.json",
        "/system Be brief.",
        "Three",
        "/save b.json",
        "/system",
        "/save c.json",
    ]
    lines = [line.replace("/save ", f"/save {tmp_path}/") for line in steps]
    done = octuor("chat", model, "--system", "Be kind.", "--temperature", 0, stdin="\n".join(lines))
    assert done.code == 0
    assert done.out == "Hi there.\n" * 3
    assert done.err.splitlines()[0] == "forgotten"
    assert saved(tmp_path / "a.json") == [("system", "Be kind."), ("user", "Two"), ("assistant", "Hi there.")]
    assert saved(tmp_path / "b.json") == [("system", "Be brief."), ("user", "Three"), ("assistant", "Hi there.")]
    assert saved(tmp_path / "c.json") == []


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye"])
def test_exit(model: Path, word: str) -> None:
    assert octuor("chat", model, "--temperature", 0, stdin=f"Hello\n{word}\nHello\n") == (0, "Hi there.\n", "")


def test_help_and_unknown_commands(model: Path) -> None:
    shown = octuor("chat", model, stdin="/help").err
    assert all(f"\n{name} " in f"\n{shown}" for name in ("/reset", "/system", "/save", "/help", "/exit"))
    unknown = octuor("chat", model, stdin="/rest now\nHello")
    assert unknown == (0, "Hi there.\n", f"unknown command /rest\n{shown}")


def test_the_oldest_turns_make_room(model: Path, tmp_path: Path) -> None:
    """Turns are dropped whole, from the front, once they would leave the answer less than a quarter."""
    words = ["One", "Two", "Three", "Four", "Five"]
    stdin = "".join(f"{word}\n" for word in words) + f"/save {tmp_path / 'x.json'}"
    done = octuor("chat", model, "--context", 64, "--temperature", 0, stdin=stdin)
    assert done.out == "Hi there.\n" * 5
    kept = saved(tmp_path / "x.json")
    assert [content for role, content in kept if role == "user"] == words[-len(kept) // 2 :] != words
    messages = [{"role": role, "content": content} for role, content in kept]
    assert len(encode_chat(mixtral_tokenizer(), messages[:-1])) <= 48
    more = [{"role": "user", "content": "Two"}, {"role": "assistant", "content": "Hi there."}, *messages[:-1]]
    assert len(encode_chat(mixtral_tokenizer(), more)) > 48


def test_a_message_too_long_for_the_context_ends_a_pipe(model: Path) -> None:
    done = octuor("chat", model, "--context", 20, stdin="word " * 40 + "\nHello\n")
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("octuor: prompt: expected fewer tokens than the context of 20")
    assert done.err.count("\n") == 1


def test_bytes_that_are_no_text(model: Path) -> None:
    done = octuor("chat", model, stdin=b"caf\xe9\n")
    assert done.code == 1
    assert "lone surrogate '\\udce9' at index" in done.err
    assert done.err.count("\n") == 1


def test_a_model_without_a_tokenizer_cannot_talk(tmp_path: Path) -> None:
    path = write_model(scripted_checkpoint([700], tokenizer=False), tmp_path / "x.octuor")
    done = octuor("chat", path, stdin="")
    assert (done.code, done.out) == (1, "")
    assert "has no tokenizer" in done.err


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process if it hangs, and in any case."""
    watchdog = threading.Timer(GIVE_UP_S, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_ctrl_c_stops_the_answer_not_the_program(endless: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        program("chat", endless, "--temperature", 0, "--threads", 1),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None

    def say(line: str, to: IO[bytes] = stdin) -> None:
        to.write(f"{line}\n".encode())
        to.flush()

    with ending(process), stdin, stdout, stderr:
        answers = []
        for line in ("Hello", "Again"):
            say(line)
            begun = stdout.read(1)  # the answer has begun
            process.send_signal(signal.SIGINT)
            answers.append((begun + stdout.readline()).decode())
        say(f"/save {tmp_path / 'x.json'}")
        say("/exit")
        assert process.wait() == 0
        assert stderr.read().decode() == f"saved {tmp_path / 'x.json'}\n"
    assert all(answer.startswith("on") and answer.endswith("\n") for answer in answers)
    kept = [content for role, content in saved(tmp_path / "x.json") if role == "assistant"]
    for content, answer in zip(kept, answers, strict=True):
        # the interrupt may fall between keeping a token and showing it
        assert content.startswith(answer.rstrip("\n"))
        assert len(content.split()) - len(answer.split()) in (0, 1)


def test_ctrl_c_at_the_prompt_says_how_to_end(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: a signal that comes before the line is waited for would be noticed only after it."""
    events: list[str | type[BaseException]] = [KeyboardInterrupt, "Hello", EOFError]

    def read(prompt: str) -> str:
        assert prompt == "\n> "
        event = events.pop(0)
        if isinstance(event, str):
            return event
        raise event

    monkeypatch.setattr("builtins.input", read)
    done = octuor("chat", model, "--temperature", 0, stdin=None)
    assert (done.code, done.out) == (0, "Hi there.\n")
    assert done.err == "octuor · hi.octuor · /help lists the commands\n\n(Ctrl-D or /exit ends)\n\n"


def test_a_talk_in_a_terminal(model: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        program("chat", model, "--temperature", 0, "--threads", 1, "--context", 60),
        stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""

    def until(text: bytes) -> str:
        """What the terminal shows up to `text`."""
        nonlocal shown
        while text not in shown:
            shown += os.read(master, 4096)
        before, _, shown = shown.partition(text)
        return before.decode()

    with ending(process):
        assert "octuor · hi.octuor · /help lists the commands" in until(b"\n> ")
        os.write(master, b"Hello\n")
        assert "Hi there." in until(b"\n> ")
        os.write(master, b"/rest\n")
        assert "unknown command /rest" in until(b"\n> ")
        os.write(master, b"word " * 60 + b"\n")
        assert "expected fewer tokens than the context of 60" in until(b"\n> ")
        os.write(master, b"Hello\n")
        assert "Hi there." in until(b"\n> ")
        os.write(master, b"\x04")
        assert process.wait() == 0
    os.close(master)
