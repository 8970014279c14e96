"""A real `octuor serve` for tests: a process of its own with the pocket model, on a free port, in a home of its own."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import environment, program

STARTS_WITHIN_S = 60.0
STOPS_WITHIN_S = 30.0


@dataclass
class ServeProcess:
    """A server under way.

    home  its $OCTUOR_HOME, which outlives the process
    log   what it has printed on stderr
    """

    url: str
    home: Path
    log: Path
    process: subprocess.Popen[bytes]

    def key(self, name: str, *options: str) -> str:
        """A new key, as `octuor keys create` makes it; the running server knows it within a second."""
        return octuor_at(self.home, "keys", "create", name, *options).strip()

    def get(self, path: str, key: str = "") -> str:
        """The body that a GET answers with; urllib.error.HTTPError where it refuses."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
        return body.decode()

    def post(self, path: str, body: object, key: str = "") -> Any:
        """The JSON that a POST answers with; urllib.error.HTTPError where it refuses."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def gauge(self, ending: str, key: str = "") -> float:
        """The sum of the metrics whose name ends so."""
        lines = (line.rpartition(" ") for line in self.get("/metrics", key).splitlines() if line[:1] != "#")
        return sum(float(value) for name, _, value in lines if name.partition("{")[0].endswith(ending))

    def stop(self) -> int:
        """Ask it to finish and end, as a supervisor does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOPS_WITHIN_S)


def octuor_at(home: Path, *args: object) -> str:
    """What the command prints on stdout, with its state under home."""
    env = {**environment(), "OCTUOR_HOME": str(home)}
    return subprocess.run(program(*args), check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def serve_process(
    home: Path, *options: str, env: Mapping[str, str] | None = None
) -> AbstractContextManager[ServeProcess]:
    """Start a server and wait until it is ready; whatever is left of it at the end is killed.

    options  of `octuor serve`, beside --port
    env      more variables for the process
    """
    return _process(home, "serve", options, env or {})


def page_process(home: Path, *options: str) -> AbstractContextManager[ServeProcess]:
    """The same with `octuor ui`."""
    return _process(home, "ui", ("--no-open", *options), {})


@contextmanager
def _process(home: Path, command: str, options: Sequence[str], env: Mapping[str, str]) -> Iterator[ServeProcess]:
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"server-{len(list(home.glob('server-*.log')))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            program(command, "--port", 0, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**environment(), "OCTUOR_HOME": str(home), **env},
        )
    try:
        yield ServeProcess(_address(process, log), home, log, process)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address, which the server prints once it is ready."""
    assert process.stdout is not None
    with process.stdout as stdout:
        line = stdout.readline().decode() if select.select([stdout], [], [], STARTS_WITHIN_S)[0] else ""
    if not line:
        raise RuntimeError(f"octuor serve: no address within {STARTS_WITHIN_S} s: {log.read_text()}")
    return line.split()[-1]
