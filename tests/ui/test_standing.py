"""How fast a count grows."""

from __future__ import annotations

import pytest

from octuor.ui.standing import WINDOW_S, Speed


class Watch:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_told_over_the_last_seconds() -> None:
    watch = Watch()
    speed = Speed(watch)
    assert speed.look(1000) is None
    watch.now += 1
    assert speed.look(1020) == pytest.approx(20)
    watch.now += 1
    assert speed.look(1060) == pytest.approx(30)
    watch.now += WINDOW_S
    assert speed.look(1060) == pytest.approx(0)


def test_many_pages_look_at_one_count() -> None:
    watch = Watch()
    speed = Speed(watch)
    told = []
    for n in range(40):
        watch.now += 0.1
        told.append(speed.look(5 * n))
    assert told[0] is None
    assert all(value == pytest.approx(50) for value in told[6:])


def test_nothing_is_told_where_nobody_has_looked_lately() -> None:
    watch = Watch()
    speed = Speed(watch)
    speed.look(0)
    watch.now += 10 * WINDOW_S
    assert speed.look(1_000_000) is None
