"""Turns by the tokens that each tenant has had."""

from __future__ import annotations

from octuor.engine.queue import FairQueue
from octuor.engine.sequence import Sequence


def waiting(tenant: str) -> Sequence:
    return Sequence(tenant, [1, 2, 3], [])


def test_first_come_first_served_for_one_tenant() -> None:
    queue = FairQueue()
    first, second = waiting("a"), waiting("a")
    queue.push(first)
    queue.push(second)
    assert queue.peek() is first
    queue.remove(first)
    queue.push_front(first)
    assert queue.peek() is first
    assert len(queue) == 2


def test_whoever_had_least_is_next() -> None:
    queue = FairQueue()
    for tenant in "aaab":
        queue.push(waiting(tenant))
    order = []
    while (sequence := queue.peek()) is not None:
        queue.remove(sequence)
        queue.charge(sequence.tenant, 100)
        order.append(sequence.tenant)
    assert order == ["a", "b", "a", "a"]


def test_a_pause_gives_no_credit() -> None:
    queue = FairQueue()
    queue.push(waiting("busy"))
    queue.charge("busy", 5000)
    queue.push(waiting("new"))  # begins beside the busy one, not 5000 tokens ahead
    queue.charge("new", 1)
    sequence = queue.peek()
    assert sequence is not None
    assert sequence.tenant == "busy"


def test_counters_of_the_absent_are_forgotten() -> None:
    queue = FairQueue()
    queue.push(waiting("a"))
    queue.charge("a", 10)
    queue.charge("gone", 10)
    queue.forget_idle(set())
    assert set(queue._served) == {"a"}


def test_taking_out_someone_who_is_not_there() -> None:
    queue = FairQueue()
    queue.push(waiting("a"))
    assert not queue.remove(waiting("a"))
    assert not queue.remove(waiting("b"))
    assert len(queue) == 1
