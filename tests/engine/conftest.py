"""Engines that tests step by hand, and what their callers hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from octuor.api import Model, load
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Event, Failed, Finish, Prefilled, Prompt, Request, Step
from octuor.errors import OctuorError
from octuor.ops.native import NativeOps
from octuor.sampling import SamplingParams
from tiny_models import random_checkpoint

GREEDY = SamplingParams(temperature=0, max_tokens=12)


@dataclass
class Heard:
    """Everything that one caller was told."""

    events: list[Event] = field(default_factory=list)

    def of(self, choice: int) -> list[Step]:
        return [event for event in self.events if isinstance(event, Step) and event.choice == choice]

    def ids(self, choice: int = 0) -> list[int]:
        return [step.token.id for step in self.of(choice) if step.token is not None]

    def text(self, choice: int = 0) -> str:
        return "".join(step.text for step in self.of(choice))

    def finish(self, choice: int = 0) -> Finish | None:
        return self.of(choice)[-1].finish

    @property
    def prefilled(self) -> Prefilled:
        return next(event for event in self.events if isinstance(event, Prefilled))

    @property
    def error(self) -> OctuorError | None:
        return next((event.error for event in self.events if isinstance(event, Failed)), None)


class Stage:
    """An engine without a thread: tests step it."""

    def __init__(self, model: Model, **settings: Any) -> None:
        self.engine = Engine(model, EngineSettings(**settings))

    def ask(self, ids: Sequence[int], params: SamplingParams = GREEDY, **request: Any) -> Heard:
        """Submit a request, spoken parts of its prompt among the keywords."""
        heard = Heard()
        prompt = Prompt(ids, request.pop("spoken", ()))
        self.engine.submit(Request(prompt, params, **request), heard.events.append)
        return heard

    def finish(self) -> None:
        """Step until nobody waits or runs."""
        for _ in range(20000):
            if self.engine.is_idle:
                return
            self.engine.step()
        raise AssertionError("the engine does not come to an end")

    def answer(self, ids: Sequence[int], params: SamplingParams = GREEDY, **request: Any) -> Heard:
        """Submit and step to the end."""
        heard = self.ask(ids, params, **request)
        self.finish()
        return heard


@pytest.fixture(scope="session")
def pocket() -> Model:
    return load()


@pytest.fixture(scope="session")
def tiny() -> Model:
    """Random float32 weights: answers that never end by themselves."""
    return Model(random_checkpoint(), NativeOps(threads=2), context=None, cache_dtype="f16")
