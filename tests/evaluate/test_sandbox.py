"""What a program in the sandbox can do, and what it cannot."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from octuor.errors import BackendError
from octuor.evaluate.sandbox import Limits, Sandbox


def isolates() -> bool:
    """Whether this system lets its users make namespaces; some containers do not, and then there is nothing to test."""
    try:
        Sandbox()
    except BackendError:
        return False
    return True


ISOLATES = isolates()


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=2.0, memory_bytes=256 << 20), is_unsafe=True)


def test_a_program_passes_by_reaching_its_end(sandbox: Sandbox) -> None:
    found = sandbox.run_all(
        ["import math\nassert math.sqrt(4) == 2\nprint('hello')", "assert 1 == 2", "raise SystemExit(0)"]
    )
    assert [outcome.result for outcome in found] == ["passed", "failed (1)", "ended early"]
    assert found[0].output == "hello"
    assert "AssertionError" in found[1].output


def test_time_and_memory_are_limited(sandbox: Sandbox) -> None:
    hurried = Sandbox(Limits(seconds=0.7), is_unsafe=True)
    assert hurried.run("import time\ntime.sleep(60)").result == "took too long"
    assert "MemoryError" in sandbox.run("x = bytearray(1 << 30)").output
    assert sandbox.run("open('big', 'wb').write(bytes(3 << 20))").result != "passed"


def test_nothing_of_the_environment_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTUOR_SECRET", "1")
    assert (
        sandbox.run("import os\nassert sorted(os.environ) == ['HOME', 'LANG', 'PATH'], os.environ").result == "passed"
    )


if ISOLATES:

    def test_there_is_no_network(sandbox: Sandbox) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            found = sandbox.run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
        assert found.result == "failed (1)"
        assert "Network is unreachable" in found.output or "Connection refused" in found.output

    def test_files_of_others_are_not_there_and_the_system_is_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0o644)
        assert "FileNotFoundError" in sandbox.run(f"open({str(secret)!r})").output
        assert "Read-only file system" in sandbox.run("open('/usr/octuor-was-here', 'w')").output or os.getuid() != 0
        assert sandbox.run("import os\nassert sorted(os.listdir('/work')) == ['program.py']").result == "passed"
        assert (
            sandbox.run("import os\nassert 'run' not in os.listdir('/') and 'home' not in os.listdir('/')").result
            == "passed"
        )

    def test_processes_are_limited_and_end_with_the_program(sandbox: Sandbox) -> None:
        forks = "import os, time\nfor _ in range(100):\n    if os.fork() == 0:\n        time.sleep(60)"
        assert "BlockingIOError" in sandbox.run(forks).output
        assert (
            sandbox.run("import os\nassert os.getpid() == 1 and os.getuid() != 0\nos.setuid(0)").result == "failed (1)"
        )


def test_nothing_runs_where_nothing_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "another")
    with pytest.raises(BackendError, match="--unsafe"):
        Sandbox()
    assert Sandbox(is_unsafe=True).run("pass").result == "passed"
