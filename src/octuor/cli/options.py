"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

ModelArgument = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation at run time on every Python it supports
    typer.Argument(help="A pack, a checkpoint (folder or file), or a Hub id; default: the pocket model."),
]
ModelOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", help="A pack, a checkpoint (folder or file), or a Hub id; default: the pocket model."),
]
Threads = Annotated[Optional[int], typer.Option(min=1, help="CPU threads; default: one a performance core.")]  # noqa: UP045
Resident = Annotated[bool, typer.Option("--resident", help="Copy the weights to memory that is never reclaimed.")]
Memory = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="All that this process may take, as in 8GiB; experts beyond it are read as needed."),
]
Adapter = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="A LoRA adapter's folder, as peft writes it, that changes the model's answers."),
]
Context = Annotated[Optional[int], typer.Option(help="Tokens of prompt and answer; default: the model's.")]  # noqa: UP045
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens with this much probability together.")]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0: all.")]
MinP = Annotated[float, typer.Option(help="Keep tokens this likely beside the likeliest.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: tokens that were there become less likely.")]
Seed = Annotated[Optional[int], typer.Option(help="The same seed gives the same answer.")]  # noqa: UP045
MaxTokens = Annotated[Optional[int], typer.Option(help="Tokens in an answer; default: to the context's end.")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
