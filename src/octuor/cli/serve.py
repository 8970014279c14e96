"""octuor serve: answer over HTTP, in the words of Mistral's, OpenAI's and TGI's clients."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from octuor.cli import options


def main(
    model: options.ModelArgument = None,
    config: Annotated[Optional[Path], typer.Option(help="An octuor.toml; options go before it.")] = None,  # noqa: UP045
    host: Annotated[Optional[str], typer.Option(help="Address to listen at; default: 127.0.0.1.")] = None,  # noqa: UP045
    port: Annotated[Optional[int], typer.Option(help="Port; 0: a free one; default: 8000.")] = None,  # noqa: UP045
    name: Annotated[Optional[str], typer.Option(help="What the model is called; default: from MODEL.")] = None,  # noqa: UP045
    threads: options.Threads = None,
    max_batch: Annotated[Optional[int], typer.Option(min=1, help="Answers at once; default: 32.")] = None,  # noqa: UP045
    max_queue: Annotated[Optional[int], typer.Option(min=1, help="Requests that may wait; default: 256.")] = None,  # noqa: UP045
    context: options.Context = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    adapter: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A LoRA adapter's folder, or NAME=FOLDER; asked for as MODEL:NAME; repeatable."),
    ] = None,
    adapter_folder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where clients may load adapters from while the server runs; default: nowhere."),
    ] = None,
    drain_timeout: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds that running answers may go on for after SIGTERM; default: 60."),
    ] = None,
    cors_origin: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A page that may ask, beside those of this machine: https://example.org; * for all."),
    ] = None,
    log_format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="json, text, or auto: text on a terminal; default: auto."),
    ] = None,
    log_level: Annotated[Optional[str], typer.Option(help="debug, info, warning or error; default: info.")] = None,  # noqa: UP045
    otel: Annotated[bool, typer.Option("--otel", help="Send spans to where the OTEL_ variables say.")] = False,
    allow_no_keys: Annotated[
        bool, typer.Option("--allow-no-keys", help="Answer anybody, beyond this machine too, while there are no keys.")
    ] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Show the chat page at the same address.")] = False,
) -> None:
    """Serve models over HTTP: /v1 as Mistral and OpenAI have it, and TGI's routes.

    Prints one line with its address when it is ready.
    """
    from octuor.cli.progress import PromptBar
    from octuor.errors import BackendError

    try:
        from octuor.server.run import Front, serve
        from octuor.server.settings import Config, ModelSettings, read_config
    except ModuleNotFoundError as error:
        raise BackendError(f'serve: expected {error.name}, found none; pip install "octuor[serve]"') from error

    front: Front | None = None
    if ui:
        from octuor.ui.run import own_page

        front = own_page

    settings = Config() if config is None else read_config(config)
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "threads": threads,
        "max_batch": max_batch,
        "max_queue": max_queue,
        "drain_timeout_s": drain_timeout,
        "cors_origins": tuple(cors_origin) if cors_origin else None,
        "log_format": log_format,
        "log_level": log_level,
        "otel": otel or None,
        "allow_no_keys": allow_no_keys or None,
        "adapter_folder": adapter_folder,
    }
    server = replace(settings.server, **{key: value for key, value in given.items() if value is not None})
    models = settings.models if model is None else (ModelSettings(path=model),)
    about: dict[str, Any] = {"name": name, "context": context, "resident": resident or None, "memory": memory}
    about["adapters"] = dict(map(_named, adapter)) if adapter else None
    first = replace(models[0], **{key: value for key, value in about.items() if value is not None})

    def ready(address: str) -> None:
        bar.close()
        print(f"octuor serves at {address}", flush=True)

    bar = PromptBar()
    with bar:
        status = serve(
            Config(server, (first, *models[1:]), settings.aliases),
            on_load=bar.loading,
            on_ready=ready,
            warn=lambda line: print(f"octuor: {line}", file=sys.stderr),
            front=front,
        )
    sys.exit(status)


def _named(adapter: str) -> tuple[str, str]:
    """NAME=FOLDER, or a folder under its own name."""
    name, is_named, path = adapter.partition("=")
    return (name, path) if is_named else (Path(adapter).resolve().name, adapter)
