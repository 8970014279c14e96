"""Progress bars: there in a terminal, gone when the work is, and silent in a pipe."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from command_line import Terminal, octuor
from octuor.cli.progress import PromptBar, bytes_bar, tokens_bar
from octuor.generate import PREFILL_CHUNK
from tiny_models import random_checkpoint, write_model

CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_bytes_are_counted_in_a_terminal(terminal: Terminal) -> None:
    with redirect_stderr(terminal), bytes_bar("work") as update:
        update(5_000_000, 10_000_000)
        update(10_000_000, 10_000_000)
    assert "work" in terminal.getvalue()
    assert "10.0/10.0 MB" in terminal.getvalue()


def test_tokens_have_a_rate(terminal: Terminal) -> None:
    with redirect_stderr(terminal), tokens_bar("routing") as update:
        update(512, 1024)
        update(1024, 1024)
    assert "1024/1024" in terminal.getvalue()
    assert "tokens/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # gone when the work is


def test_a_prompt_read_in_one_go_shows_nothing(terminal: Terminal) -> None:
    with redirect_stderr(terminal), PromptBar() as bar:
        bar(100, 100)
    assert terminal.getvalue() == ""


def test_a_long_prompt_shows_until_it_is_read(terminal: Terminal) -> None:
    with redirect_stderr(terminal), PromptBar() as bar:
        bar(512, 1200)
        assert CURSOR_ON not in terminal.getvalue()
        bar(1024, 1200)
        bar(1200, 1200)
        assert terminal.getvalue().endswith("\x1b[2K")  # its line is wiped
        assert CURSOR_ON in terminal.getvalue()
    assert "reading" in terminal.getvalue()
    assert "1200/1200" in terminal.getvalue()


def test_weights_that_take_long_to_read_show(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with redirect_stderr(terminal), PromptBar() as bar:
        now += 0.1
        bar.loading(1_000_000_000, 15_000_000_000)  # 1.5 s in all, it seems
        assert terminal.getvalue() == ""
        now += 0.4
        bar.loading(2_000_000_000, 15_000_000_000)
        bar(512, 1200)
        now += 3
        bar.loading(15_000_000_000, 15_000_000_000)
        bar(1200, 1200)
        assert CURSOR_ON in terminal.getvalue()
        shown = terminal.getvalue()
        bar.loading(1, 15_000_000_000)  # the answer has begun
    assert terminal.getvalue() == shown
    assert "2.0/15.0 GB, 4000 MB/s" in shown
    assert "15.0/15.0 GB" in shown
    assert "1200/1200" in shown


def test_weights_show_only_while_an_answer_waits(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with redirect_stderr(terminal):
        bar = PromptBar()
        now = 10.0
        bar.loading(1, 2)
        assert terminal.getvalue() == ""
        with bar:
            bar.loading(1, 2)
        assert "loading" in terminal.getvalue()
        assert terminal.getvalue().count(CURSOR_OFF) == terminal.getvalue().count(CURSOR_ON) == 1
        with bar:
            bar.loading(1, 2)
        assert terminal.getvalue().count(CURSOR_OFF) == terminal.getvalue().count(CURSOR_ON) == 2


def test_an_error_takes_the_bar_away(terminal: Terminal) -> None:
    def interrupted() -> None:
        with PromptBar() as bar:
            bar(512, 1200)
            raise KeyboardInterrupt

    with redirect_stderr(terminal), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().count(CURSOR_OFF) == terminal.getvalue().count(CURSOR_ON) == 1


def test_nothing_is_shown_in_a_pipe(tmp_path: Path) -> None:
    pipe = io.StringIO()
    with redirect_stderr(pipe), bytes_bar("work") as update, PromptBar() as bar:
        update(5, 10)
        bar(512, 1200)
        bar.loading(1, 10**15)
    assert pipe.getvalue() == ""
    path = write_model(random_checkpoint(), tmp_path / "x.octuor")
    done = octuor("generate", path, "--ids", "5 " * (2 * PREFILL_CHUNK), "--max-tokens", 1)
    assert (done.code, done.err) == (0, "")
