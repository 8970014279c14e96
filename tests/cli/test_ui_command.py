"""octuor ui: what it needs and what it refuses. The page itself: tests/ui/live_*.py."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from command_line import octuor
from octuor.cli import ui
from octuor.server.settings import Config, ServerSettings
from octuor.ui import run
from octuor.ui.address import Address
from octuor.ui.backend import Backend

LACKING = 'octuor: ui: expected gradio, found none; pip install "octuor[ui]"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path / "home"))
    for name in ("OCTUOR_API_KEY", "OPENAI_API_KEY", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def no_gradio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wherever it is installed; and the folder of what is temporary."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "octuor.ui.gradio_app", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "command", [("ui", "--port", 0), ("ui", "--port", 0, "--server", "127.0.0.1:9"), ("serve", "--port", 0, "--ui")]
)
def test_without_the_extra_one_line_names_it(no_gradio: Path, command: tuple[object, ...]) -> None:
    done = octuor(*command)
    assert (done.code, done.out, done.err.strip().splitlines()[-1]) == (1, "", LACKING)
    assert not list(no_gradio.glob("octuor-ui-*"))


@pytest.mark.parametrize("option", [("model.octuor",), ("--memory", "8GiB"), ("--context", "512"), ("--resident",)])
def test_a_server_has_its_own_model(option: tuple[str, ...]) -> None:
    done = octuor("ui", "--server", "127.0.0.1:9", *option)
    assert done.code == 1
    assert done.err.startswith("octuor: server: expected no MODEL, --memory, --context or --resident beside it")


@pytest.mark.parametrize("option", [(), ("--server", "127.0.0.1:9")])
def test_strangers_need_a_key(option: tuple[str, ...]) -> None:
    done = octuor("ui", "--host", "0.0.0.0", "--port", 0, *option)
    assert done.code == 1
    assert "expected a loopback address such as 127.0.0.1 while there are no keys" in done.err


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be run, in place of running it; the page is ready at once."""
    found: list[tuple[Any, ...]] = []

    def serve_page(backend: Backend, settings: ServerSettings, *, on_ready: Any, warn: Any) -> int:  # noqa: ARG001
        found.append((backend, settings))
        on_ready("http://127.0.0.1:1")
        return 0

    def serve(config: Config, *, on_load: Any, on_ready: Any, warn: Any, front: Any) -> int:  # noqa: ARG001
        found.append((config, front))
        on_ready("http://127.0.0.1:1")
        return 0

    monkeypatch.setattr("octuor.ui.run.serve_page", serve_page)
    monkeypatch.setattr("octuor.server.run.serve", serve)
    return found


def key_of(backend: object) -> str | None:
    assert isinstance(backend, Address)
    return backend._client.headers.get("authorization")


@pytest.mark.parametrize(
    ("options", "environment", "key"),
    [
        ((), {}, None),
        (("--key", "sk-1"), {"OCTUOR_API_KEY": "sk-2"}, "Bearer sk-1"),
        ((), {"OCTUOR_API_KEY": "sk-2", "OPENAI_API_KEY": "sk-3"}, "Bearer sk-2"),
        ((), {"OPENAI_API_KEY": "sk-3"}, "Bearer sk-3"),
    ],
)
def test_the_servers_key(
    shown: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    environment: dict[str, str],
    key: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = octuor("ui", "--server", "host:1", *options)
    assert (done.code, done.out) == (0, "octuor shows its page at http://127.0.0.1:1\n")
    [(backend, settings)] = shown
    assert backend.base == "http://host:1/v1"
    assert key_of(backend) == key
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)


def test_the_models_options_reach_the_server(shown: list[tuple[Any, ...]]) -> None:
    octuor("ui", "m.octuor", "--memory", "8GiB", "--context", 99, "--port", 5, "--threads", 1, "--allow-no-keys")
    [(config, front)] = shown
    [model] = config.models
    assert (model.path, model.memory, model.context) == ("m.octuor", "8GiB", 99)
    assert (config.server.port, config.server.threads, config.server.allow_no_keys) == (5, 1, True)
    assert front is run.own_page


@pytest.mark.parametrize(("option", "opens"), [("--open", True), ("--no-open", False), (None, False)])
def test_the_page_is_opened_where_it_can_be_seen(
    shown: list[tuple[Any, ...]],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    opens: bool,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(ui, "Thread", FakeThread)
    octuor("ui", *([option] if option else []))
    assert opened == ["http://127.0.0.1:1"] * opens


class FakeThread:
    """Runs when it is started."""

    def __init__(self, target: Any, args: tuple[Any, ...], daemon: bool) -> None:  # noqa: ARG002
        self.start = lambda: target(*args)


def test_a_display_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "stdout", Screen())
    assert not ui.has_display()
    monkeypatch.setitem(os.environ, "DISPLAY", ":0")
    assert ui.has_display()


def test_the_page_alone_needs_no_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the keys is this machine's, as for a server."""
    served: list[Any] = []
    monkeypatch.setattr("octuor.ui.run.page_front", lambda serving, backend: [])  # noqa: ARG005

    def run_server(*args: object, on_ready: object) -> int:  # noqa: ARG001
        served.append(args)
        return 0

    monkeypatch.setattr("octuor.ui.run.run_server", run_server)
    lines: list[str] = []
    settings = ServerSettings(port=0, host="0.0.0.0", allow_no_keys=True)
    assert run.serve_page(Address("host:1"), settings, on_ready=lines.append, warn=lines.append) == 0
    [(_, serving, _)] = served
    assert serving.registry is None
    assert lines[0].startswith("anybody who reaches 0.0.0.0")
    assert (home / "accounts.sqlite3").exists()
