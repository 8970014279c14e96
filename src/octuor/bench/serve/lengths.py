"""How long prompts and answers are, and when requests arrive: what is drawn at random before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from octuor.errors import RequestError

SPELLINGS = "128, 64-256 (uniform) or normal:128:32 (mean, deviation)"


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    def draw(self, rng: np.random.Generator) -> int:
        """One length, at least 1."""

    @property
    def most(self) -> int:
        """No length is above this, or for one without an end, next to none."""


@dataclass(frozen=True)
class Uniform:
    """Every length from low to high is equally likely; one length where they are the same."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.low, self.high, endpoint=True))

    @property
    def most(self) -> int:
        return self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Normal:
    """Normally distributed, rounded; what falls below 1 is 1."""

    mean: float
    deviation: float

    def draw(self, rng: np.random.Generator) -> int:
        return max(1, round(rng.normal(self.mean, self.deviation)))

    @property
    def most(self) -> int:
        return max(1, round(self.mean + 3 * self.deviation))

    def __str__(self) -> str:
        return f"{self.mean:g} ± {self.deviation:g}"


def parse_lengths(option: str, text: str) -> Lengths:
    """A length or distribution as it is written on a command line. Raises RequestError."""
    try:
        if text.startswith("normal:"):
            mean, deviation = (float(word) for word in text.removeprefix("normal:").split(":"))
            if not (1 <= mean < np.inf and 0 <= deviation < np.inf):
                raise ValueError
            return Normal(mean, deviation)
        words = [int(word) for word in text.split("-")]
        low, high = words if len(words) == 2 else (words[0], *words)
        if not 1 <= low <= high:
            raise ValueError
        return Uniform(low, high)
    except ValueError as error:
        raise RequestError(f"{option}: expected {SPELLINGS}, found {text!r}") from error


def arrivals(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Seconds from the start at which requests arrive: a Poisson process of `rate` a second, without end."""
    at = 0.0
    while True:
        at += float(rng.exponential(1 / rate))
        yield at
