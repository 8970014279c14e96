"""octuor serve: a process that answers, says where, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import environment, octuor, program
from octuor.accounts import open_store


@contextmanager
def server(home: Path, *args: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port and its address; it is killed in the end, if it has not ended."""
    process = subprocess.Popen(
        program("serve", "--port", 0, "--threads", 1, *args),
        env={**environment(), "OCTUOR_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("octuor serves at http://127.0.0.1:"), process.communicate()
        yield line.split()[-1], process
    finally:
        process.kill()
        process.communicate()


def ask(address: str, **fields: object) -> dict[str, object]:
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 4, **fields}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    config = tmp_path / "octuor.toml"
    config.write_text('[[models]]\nname = "small"\n\n[aliases]\ngpt-4 = "small"\n')
    with server(tmp_path, "--config", config, "--context", 64) as (address, process):
        first, second = (ask(address, model="gpt-4")["choices"] for _ in range(2))
        assert first == second
        with urllib.request.urlopen(f"{address}/v1/models/small", timeout=30) as answer:
            assert json.load(answer)["max_context_length"] == 64
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
    with open_store(tmp_path) as store:
        (row,) = store.usage()
    assert (row.name, row.model, row.requests) == ("local", "small", 2)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere.octuor"], "nowhere.octuor: no such file or folder"),
        (["--host", "0.0.0.0"], "host: expected a loopback address such as 127.0.0.1 while there are no keys"),
        (["--port", "70000"], "port: expected 0 to 65535, found 70000"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--context", "5000"], "context: expected 1 to the 1024 tokens"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str) -> None:
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path))
    done = octuor("serve", "--port", 0, *args)
    assert (done.code, done.out) == (1, "")
    assert says in done.err.splitlines()[-1]
