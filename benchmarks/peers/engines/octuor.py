"""Octuor itself: `octuor bench` in a child process."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from engines.base import EngineError, Request, Row, Subject, run_child


@dataclass
class Octuor:
    """command: what to run in place of `python -m octuor`; isa: forced instruction set.

    n_bytes  of its weights, known after the first measurement
    limits   what the machine reached, a value a measurement
    """

    isa: str | None = None
    command: Sequence[str] = field(default_factory=lambda: (sys.executable, "-m", "octuor"))
    name: str = "octuor"
    n_bytes: int = 0
    limits: dict[str, list[float]] = field(default_factory=dict)
    _subject: Subject | None = None

    def install(self) -> None:
        """It is what runs this."""

    def prepare(self, subject: Subject) -> int:
        """Weights are drawn in memory by every run; their size is known after one, so 0."""
        self._subject = subject
        return 0

    def describe(self) -> str:
        import octuor

        parts = [f"version {octuor.__version__}", *([f"{self.isa} forced"] if self.isa else [])]
        if self.n_bytes:
            parts.append(f"{self.n_bytes / 1e9:.2f} GB")
        for name, values in self.limits.items():
            parts.append(f"{name} {median(values):.0f}")
        return ", ".join(parts)

    def measure(self, request: Request) -> list[Row]:
        assert self._subject is not None
        subject = self._subject
        options = {
            "--geometry": "mixtral-8x7b",
            "--layers": subject.layers,
            "--format": subject.format_name,
            "--threads": subject.threads,
            "--prompt": ",".join(map(str, request.prompts)),
            "--answer": request.answer if request.batches else 0,
            "--batch": ",".join(map(str, request.batches or (1,))),
            "--repeats": 1,
        }
        words = [str(word) for pair in options.items() for word in pair]
        env = {"OCTUOR_ISA": self.isa} if self.isa else {}
        text = run_child([*self.command, "bench", *words, "--json"], env=env, name=self.name)
        try:
            report = json.loads(text)
            self.n_bytes = report.get("model", {}).get("bytes", 0)
            rows = [Row(row["kind"], row["tokens"], row["batch"], row["tokens_per_s"]) for row in report["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"octuor bench: expected one JSON object with rows, found {text[:200]!r}") from error
        for limit, value in report.get("limits", {}).items():
            if value is not None:
                self.limits.setdefault(limit, []).append(float(value))
        return rows
