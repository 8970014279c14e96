"""For the tests in a real browser (live_*.py): a server with the page, and browsers. Nothing is imported before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serve_process import ServeProcess, serve_process

if TYPE_CHECKING:
    from ui.chromium import Chat

# A model that talks noise without end, at the pace of a larger one.
ENDLESS = """
[[models]]
name = "pocket"

[[models]]
name = "endless"
path = "{path}"
context = 4096
"""


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models' settings."""
    from octuor.config import ModelConfig
    from tiny_models import random_checkpoint, write_model

    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(
        dim=256, n_layers=6, n_heads=8, n_kv_heads=2, head_dim=32, hidden_dim=512, vocab_size=32000, n_experts=8,
        max_seq_len=4096,
    )  # fmt: skip
    path = write_model(random_checkpoint(config), folder / "endless.octuor")
    settings = folder / "octuor.toml"
    settings.write_text(ENDLESS.format(path=path))
    return settings


@pytest.fixture(scope="session")
def server(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """`octuor serve --ui` with two models, for all tests that need no other."""
    options = ("--ui", "--config", str(endless), "--log-format", "json")
    with serve_process(tmp_path_factory.mktemp("home"), *options) as process:
        yield process


@pytest.fixture(scope="module")
def window(server: ServeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """One reader's browser, kept over a module's tests."""
    from ui.chromium import Chat, chromium

    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield Chat(driver, server.url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave a picture of what a test that failed has seen."""
    report = yield
    window: Any = item.funcargs.get("window") if isinstance(item, pytest.Function) else None
    if window is not None and report.when == "call" and report.failed:
        window.picture(f"failed-{item.name}")
    return report


@pytest.fixture
def chat(window: Chat) -> Chat:
    """The page, loaded anew, with an empty conversation and the settings it begins with."""
    return window.open()


@pytest.fixture
def another(server: ServeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Chat]]:
    """Makes further browsers, each with a profile of its own."""
    from ui.chromium import Chat, chromium

    with ExitStack() as open_ones:

        def make(url: str = server.url, **options: object) -> Chat:
            profile = tmp_path_factory.mktemp("profile")
            return Chat(open_ones.enter_context(chromium(profile, **options)), url)  # type: ignore[arg-type]

        yield make
