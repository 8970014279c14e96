"""A training recipe: everything that decides a run, read from one TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from octuor.config import ModelConfig
from octuor.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with its own mixture of sources.

    until    share of all steps at which the stage ends, up to 1.0
    weights  source name, such as "chat/en_dolly", to its share of the stage's tokens (any positive scale)
    """

    until: float
    weights: dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and how carefully to train.

    sequences_per_step  rows of seq_len tokens whose gradients make one step
    balance             weight of the load-balancing loss (Fedus et al. 2021, arXiv:2101.03961, eq. 4)
    min_lr_share        where the cosine ends, as a share of the peak
    loss_chunk          rows of logits that exist at once
    """

    steps: int
    seq_len: int = 1024
    sequences_per_step: int = 4
    learning_rate: float = 2e-3
    min_lr_share: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    balance: float = 0.01
    seed: int = 0
    loss_chunk: int = 2048
    log_every: int = 10
    save_every: int = 250
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bf16", "f32"):
            raise ConfigError(f"recipe [schedule] dtype: expected auto, bf16 or f32, found {self.dtype!r}")
        for name in ("steps", "seq_len", "sequences_per_step", "loss_chunk", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe [schedule] {name}: expected at least 1, found {getattr(self, name)}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens whose gradients make one step."""
        return self.seq_len * self.sequences_per_step


@dataclass(frozen=True)
class Export:
    """Number formats of the pack that the run ends with: one for all matrices, others by part."""

    format: str = "bf16"
    overrides: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe."""

    model: ModelConfig
    schedule: Schedule
    stages: tuple[Stage, ...]
    export: Export = Export()

    def stage_at(self, step: int) -> int:
        """Index of the stage that `step` (from 0) belongs to."""
        share = step / self.schedule.steps
        return next((i for i, stage in enumerate(self.stages) if share < stage.until), len(self.stages) - 1)

    @property
    def sources(self) -> list[str]:
        """Names of all sources, sorted."""
        return sorted({name for stage in self.stages for name in stage.weights})


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; ConfigError names the table and field that is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"recipe: expected a TOML file, found nothing at {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, found a mistake ({error})") from error
    for table in ("model", "schedule", "stage"):
        if table not in data:
            raise ConfigError(f"{path}: expected a [{table}] table, found only {sorted(data)}")
    stages = tuple(_fill(Stage, table, f"{path} [[stage]]") for table in data["stage"])
    if any(weight <= 0 for stage in stages for weight in stage.weights.values()):
        raise ConfigError(f"{path} [[stage]] weights: expected positive shares; leave a source out instead of 0")
    return Recipe(
        model=_fill(ModelConfig, data["model"], f"{path} [model]"),
        schedule=_fill(Schedule, data["schedule"], f"{path} [schedule]"),
        stages=stages,
        export=_fill(Export, data.get("export", {}), f"{path} [export]"),
    )


def _fill(kind: type[T], table: dict[str, Any], where: str) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{where}: unknown fields {unknown}; known are {sorted(known)}")
    try:
        return kind(**table)
    except TypeError as error:
        raise ConfigError(f"{where}: incomplete ({error})") from error
