"""A tuning recipe: everything that decides a run of `octuor tune`, read from one TOML file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from octuor.api import POCKET
from octuor.checkpoint.peft import TARGETS
from octuor.errors import ConfigError
from octuor.train.recipe import OPTIMIZERS, Export
from octuor.train.tables import fill, read_tables

METHODS = ("lora", "full")
SHAPES = ("cosine", "linear", "constant")


def _one_of(where: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ConfigError(f"{where}: expected one of {', '.join(known)}, found {found!r}")


@dataclass(frozen=True)
class Method:
    """What learns.

    model    a pack, checkpoint or Hub id; "pocket": the pocket model
    method   "lora": pairs of low rank beside weights that stay as they are stored; "full": the weights themselves
    targets  among attention, experts, router; for "full" also "all", which takes embedding, norms and lm_head along
    rank     r of every pair
    alpha    a pair's change counts alpha / rank
    dropout  share of a pair's inputs left out in training; attention only, for peft has none on fused experts
    """

    model: str = "pocket"
    method: str = "lora"
    targets: tuple[str, ...] = ("attention",)
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _one_of("[tune] method", self.method, METHODS)
        known = (*TARGETS, "all") if self.method == "full" else TARGETS
        if not self.targets or not set(self.targets) <= set(known):
            raise ConfigError(f"[tune] targets: expected some of {', '.join(known)}, found {list(self.targets)}")
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigError(f"[tune] rank, alpha: expected both above 0, found {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"[tune] dropout: expected 0 to below 1, found {self.dropout}")
        if self.dropout and set(self.targets) != {"attention"}:
            raise ConfigError("[tune] dropout: expected 0 where experts or router learn; peft loads no other adapter")

    @property
    def path(self) -> str:
        """What to open."""
        return str(POCKET) if self.model == "pocket" else self.model

    @property
    def learns_routing(self) -> bool:
        """Whether the load of experts can change, so that it has to be kept even."""
        return bool(set(self.targets) & {"experts", "router", "all"})


@dataclass(frozen=True)
class Data:
    """What is learned from, as JSON Lines (.jsonl or .jsonl.xz).

    validation        files held out; none: a share of the rows, chosen by their text
    validation_share  of rows, where there are no files; 0: no validation
    max_tokens        longer rows are cut
    on_bad_row        "stop", or "skip" rows that cannot be learned from
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    validation_share: float = 0.0
    max_tokens: int = 2048
    on_bad_row: str = "stop"

    def __post_init__(self) -> None:
        _one_of("[data] on_bad_row", self.on_bad_row, ("stop", "skip"))
        if not self.train:
            raise ConfigError("[data] train: expected at least one file, found none")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(f"[data] validation_share: expected 0 to below 1, found {self.validation_share}")
        if self.validation and self.validation_share:
            raise ConfigError("[data] validation: expected files or a share, found both; drop one")
        if self.max_tokens < 2:
            raise ConfigError(f"[data] max_tokens: expected at least 2, found {self.max_tokens}")


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and how carefully to learn.

    epochs, steps     times through the rows; or, where given, steps
    tokens_per_step   tokens, prompts included, whose gradients make one step: rows are taken while they fit
    tokens_at_once    of them in one forward pass; what does not fit in memory is done in turns
    optimizer         "adamw"; of method "full" also "muon", for the matrices inside the blocks
    shape             of the learning rate after the warm-up: cosine, linear, constant
    warmup_share      of the steps
    balance           weight of the load-balancing loss where experts or router learn (arXiv:2101.03961, eq. 4)
    dtype             of products: "f32", "bf16", or "auto", bfloat16 where the CPU has it
    checkpointing     keep a layer's inputs only and compute the rest again for gradients
    head_rows         rows of logits that exist at once
    patience          validations in a row without a lower loss after which to stop; 0: go on to the end
    tensorboard       write event files beside metrics.jsonl
    """

    epochs: float = 1.0
    steps: int | None = None
    tokens_per_step: int = 8192
    tokens_at_once: int = 4096
    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    shape: str = "cosine"
    min_lr_share: float = 0.1
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0
    balance: float = 0.01
    dtype: str = "auto"
    checkpointing: bool = True
    head_rows: int = 512
    seed: int = 0
    validate_every: int = 50
    patience: int = 0
    log_every: int = 10
    save_every: int = 25
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _one_of("[schedule] optimizer", self.optimizer, OPTIMIZERS)
        _one_of("[schedule] shape", self.shape, SHAPES)
        _one_of("[schedule] dtype", self.dtype, ("auto", "bf16", "f32"))
        whole = ("tokens_per_step", "tokens_at_once", "head_rows", "validate_every", "log_every", "save_every")
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f"[schedule] {name}: expected at least 1, found {getattr(self, name)}")
        for name in ("learning_rate", "min_lr_share", "warmup_share", "weight_decay", "balance", "seed", "patience"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"[schedule] {name}: expected at least 0, found {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"[schedule] {name}: expected 0 to below 1, found {getattr(self, name)}")
        for name, value in (("epochs", self.epochs), ("clip_norm", self.clip_norm), ("steps", self.steps)):
            if value is not None and not value > 0:
                raise ConfigError(f"[schedule] {name}: expected above 0, found {value}")


@dataclass(frozen=True)
class Preference:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290); rows are pairs.

    beta             how dearly to move away from the base
    label_smoothing  share of pairs that may be labelled the wrong way (Mitchell 2023, conservative DPO)
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"[preference]: expected beta above 0 and label_smoothing of 0 to below 0.5, found {self.beta} and "
                f"{self.label_smoothing}"
            )


@dataclass(frozen=True)
class Sweep:
    """Short runs of `octuor tune --sweep`, one for each learning rate."""

    learning_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    steps: int = 40

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0 or self.steps < 1:
            raise ConfigError("[sweep]: expected learning rates above 0 and at least one step")


@dataclass(frozen=True)
class TuneRecipe:
    """A whole recipe; preference None: learn the answers (and texts) themselves.

    folder  what the data's paths are relative to
    """

    tune: Method
    data: Data
    schedule: Schedule = Schedule()
    preference: Preference | None = None
    sweep: Sweep = Sweep()
    export: Export = field(default_factory=Export)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if self.schedule.optimizer == "muon" and self.tune.method == "lora":
            raise ConfigError("[schedule] optimizer: expected adamw where an adapter learns, found muon")

    def files(self, names: tuple[str, ...]) -> list[Path]:
        """The data's files."""
        return [self.folder / name for name in names]

    def decisive(self) -> str:
        """What a resumed run must have in common with its state, as JSON."""
        schedule = asdict(self.schedule)
        for name in ("log_every", "save_every", "tensorboard"):
            del schedule[name]
        preference = None if self.preference is None else asdict(self.preference)
        return json.dumps({"tune": asdict(self.tune), "schedule": schedule, "preference": preference}, sort_keys=True)


def read_tune_recipe(path: Path, folder: Path | None = None) -> TuneRecipe:
    """Read a recipe; ConfigError names the table and field that is wrong.

    folder  what the data's paths are relative to; None: the recipe's own
    """
    data = read_tables(path, ("data",))
    known = {"tune", "data", "schedule", "preference", "sweep", "export"}
    if unknown := sorted(set(data) - known):
        raise ConfigError(f"{path}: unknown tables {unknown}; known are {sorted(known)}")
    return TuneRecipe(
        tune=fill(Method, data.get("tune", {}), f"{path} [tune]"),
        data=fill(Data, data["data"], f"{path} [data]"),
        schedule=fill(Schedule, data.get("schedule", {}), f"{path} [schedule]"),
        preference=fill(Preference, data["preference"], f"{path} [preference]") if "preference" in data else None,
        sweep=fill(Sweep, data.get("sweep", {}), f"{path} [sweep]"),
        export=fill(Export, data.get("export", {}), f"{path} [export]"),
        folder=path.parent if folder is None else folder,
    )
