"""octuor ui: the chat page, over a model in this process or at an address."""

from __future__ import annotations

import os
import sys
import webbrowser
from threading import Thread
from typing import Annotated, Optional

import typer

from octuor.cli import options

PORT = 7860  # where Gradio's pages are looked for
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def main(
    model: options.ModelArgument = None,
    server: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="An OpenAI-compatible address in place of MODEL, as in http://127.0.0.1:8000/v1."),
    ] = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="That server's key; default: $OCTUOR_API_KEY or $OPENAI_API_KEY."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: a free one.")] = PORT,
    open_page: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--open/--no-open", help="Open the page in a browser; default: where there is a display."),
    ] = None,
    threads: options.Threads = None,
    context: options.Context = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    allow_no_keys: Annotated[
        bool, typer.Option("--allow-no-keys", help="Answer anybody, beyond this machine too, while there are no keys.")
    ] = False,
) -> None:
    """Open a page to chat on, in a browser.

    Prints one line with its address when it is ready. The routes of `octuor serve` are there too, except with --server.
    """
    from octuor.cli.progress import PromptBar
    from octuor.errors import BackendError, ConfigError

    if server is not None and (model is not None or resident or memory is not None or context is not None):
        raise ConfigError(
            "server: expected no MODEL, --memory, --context or --resident beside it; they are that server's"
        )
    try:
        from octuor.server.run import serve
        from octuor.server.settings import Config, ModelSettings, ServerSettings
        from octuor.ui.run import own_page, serve_page
    except ModuleNotFoundError as error:
        raise BackendError(f'ui: expected {error.name}, found none; pip install "octuor[ui]"') from error

    settings = ServerSettings(
        host=host, port=port, threads=threads, allow_no_keys=allow_no_keys, log_level="warning", drain_timeout_s=5.0
    )

    def ready(address: str) -> None:
        bar.close()
        print(f"octuor shows its page at {address}", flush=True)
        if has_display() if open_page is None else open_page:
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    def warn(line: str) -> None:
        print(f"octuor: {line}", file=sys.stderr)

    bar = PromptBar()
    with bar:
        if server is not None:
            from octuor.ui.address import Address

            secret = key or os.environ.get("OCTUOR_API_KEY") or os.environ.get("OPENAI_API_KEY")
            sys.exit(serve_page(Address(server, secret), settings, on_ready=ready, warn=warn))
        config = Config(settings, (ModelSettings(path=model, context=context, resident=resident, memory=memory),))
        sys.exit(serve(config, on_load=bar.loading, on_ready=ready, warn=warn, front=own_page))


def has_display() -> bool:
    """Whether a browser that is opened would be seen: not from a script, nor at the far end of a terminal."""
    return sys.stdout.isatty() and (sys.platform == "darwin" or any(os.environ.get(name) for name in DISPLAYS))
