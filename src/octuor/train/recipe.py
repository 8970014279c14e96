"""A training recipe: everything that decides a run, read from one TOML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from octuor.config import ModelConfig
from octuor.errors import ConfigError
from octuor.tools.convert import choose_formats
from octuor.train.tables import fill, read_tables

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with its own mixture of sources.

    until    share of all steps at which the stage ends, up to 1.0
    weights  source name, such as "chat/en_dolly", to its share of the stage's tokens (any positive scale)
    """

    until: float
    weights: dict[str, float]

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(f"recipe [[stage]] until: expected a share of the steps up to 1.0, found {self.until}")
        positive = [isinstance(weight, (int, float)) and 0 < weight < math.inf for weight in self.weights.values()]
        if not positive or not all(positive):
            raise ConfigError(
                f"recipe [[stage]] weights: expected sources with positive shares, found {self.weights}; "
                "leave a source out instead of 0"
            )


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and how carefully to train.

    sequences_per_step  rows of seq_len tokens whose gradients make one step
    balance             weight of the load-balancing loss (Fedus et al. 2021, arXiv:2101.03961, eq. 4)
    min_lr_share        where the learning rate's cosine ends, as a share of the peak
    decay_share         of the steps after the warm-up that the cosine takes, the last; before it the rate stays at its
                        peak, so that a run can be made longer before it falls (Hu et al. 2024, arXiv:2404.06395)
    optimizer           "adamw", or "muon" for the matrices inside the blocks: fewer steps to the same loss
    sampled_words       words that a step's softmax is taken over beside its targets', drawn anew each step; 0: all
    loss_chunk          rows of logits that exist at once
    """

    steps: int
    seq_len: int = 1024
    sequences_per_step: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    min_lr_share: float = 0.05
    decay_share: float = 1.0
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    balance: float = 0.01
    seed: int = 0
    sampled_words: int = 0
    loss_chunk: int = 2048
    log_every: int = 10
    save_every: int = 250
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bf16", "f32"):
            raise ConfigError(f"recipe [schedule] dtype: expected auto, bf16 or f32, found {self.dtype!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"recipe [schedule] optimizer: expected adamw or muon, found {self.optimizer!r}")
        for name in ("steps", "seq_len", "sequences_per_step", "loss_chunk", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe [schedule] {name}: expected at least 1, found {getattr(self, name)}")
        not_negative = ("learning_rate", "min_lr_share", "warmup_steps", "weight_decay", "clip_norm", "balance", "seed")
        for name in (*not_negative, "sampled_words"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"recipe [schedule] {name}: expected at least 0, found {getattr(self, name)}")
        if not 0 < self.decay_share <= 1:
            raise ConfigError(f"recipe [schedule] decay_share: expected above 0 to 1, found {self.decay_share}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe [schedule] {name}: expected 0 to below 1, found {getattr(self, name)}")

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
    """A whole recipe.

    start  a pack, checkpoint's folder or Hub id of the same geometry, whose weights the run begins with; None: random
    """

    model: ModelConfig
    schedule: Schedule
    stages: tuple[Stage, ...]
    export: Export = Export()
    start: str | None = None

    def __post_init__(self) -> None:
        if self.start is not None and not isinstance(self.start, str):
            raise ConfigError(f"recipe start: expected the path of a model, found {self.start!r}")
        ends = [stage.until for stage in self.stages]
        if not ends or ends != sorted(set(ends)):
            raise ConfigError(f"recipe [[stage]]: expected until to rise from stage to stage, found {ends}")

    def stage_at(self, step: int) -> int:
        """Index of the stage that `step` (from 0) belongs to."""
        share = step / self.schedule.steps
        return next((i for i, stage in enumerate(self.stages) if share < stage.until), len(self.stages) - 1)

    @property
    def sources(self) -> list[str]:
        """Names of all sources, sorted."""
        return sorted({name for stage in self.stages for name in stage.weights})


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; ConfigError or FormatError names the table and field that is wrong."""
    data = read_tables(path, ("model", "schedule", "stage"))
    if not isinstance(data["stage"], list):
        raise ConfigError(f"{path}: expected [[stage]] tables in double brackets, found a single [stage]")
    recipe = Recipe(
        model=fill(ModelConfig, data["model"], f"{path} [model]"),
        schedule=fill(Schedule, data["schedule"], f"{path} [schedule]"),
        stages=tuple(fill(Stage, table, f"{path} [[stage]]") for table in data["stage"]),
        export=fill(Export, data.get("export", {}), f"{path} [export]"),
        start=data.get("start"),
    )
    choose_formats(recipe.model, recipe.export.format, recipe.export.overrides)  # now, not after hours of training
    return recipe
