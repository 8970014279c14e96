"""The `octuor` command: a table of commands, each in a module of its own, imported when it is named."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from octuor import __version__
from octuor.errors import OctuorError

COMMANDS = (
    "chat", "generate", "info", "plan", "pack", "convert", "synth", "bench", "bench serve", "train", "tune", "eval",
    "compare", "serve", "ui", "keys", "routing",
)  # fmt: skip


class LazyGroup(TyperGroup):
    """A group whose commands are modules of this package, each with a function `main` or, for a group of
    commands of its own, a Typer `app`. "bench serve" is the module bench_serve."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A command of two words where there is one of that name, else one of one word."""
        two = " ".join(args[:2])
        if two in COMMANDS:
            return two, self.get_command(ctx, two), args[2:]
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"octuor.cli.{cmd_name.replace(' ', '_')}")
        if hasattr(module, "app"):
            return typer.main.get_command(module.app)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(cmd_name)(module.main)
        return typer.main.get_command(app)


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def group(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_print_version),
) -> None:
    """Run Mixtral and its family on the machine you have."""


def main() -> None:
    """Run the command line; bad input prints one line on stderr and exits 1."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # the tokenizer says what is wrong with a bad byte
    try:
        app()
    except OctuorError as error:
        print(f"octuor: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has gone, as in `octuor generate | head`
        sys.stderr.close()
        sys.exit(1)
