"""Limits: their arithmetic is exact, a refusal's wait is enough and not too long, and a rate is a rate."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.accounts.keys import MAX_PER_MINUTE, Key
from octuor.accounts.limits import MINUTE_NS, Bucket, Limiter
from octuor.errors import AccountError

PER_MINUTE = st.integers(1, 10**6) | st.just(MAX_PER_MINUTE)
NS = st.integers(0, 10 * MINUTE_NS)


class Hands:
    """A clock that is set by hand, in nanoseconds."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


def refusal(call: Callable[[], None]) -> AccountError:
    with pytest.raises(AccountError, match=r"has used up its .* a minute \(.*\); try again in") as caught:
        call()
    assert caught.value.kind == "rate_limited"
    return caught.value


def wait_for(limiter: Limiter, key: Key, prompt_tokens: int) -> float:
    """0.0: admitted; else how long it was told to wait."""
    try:
        limiter.admit(key, prompt_tokens)
    except AccountError as error:
        return error.retry_after_s or math.nan
    return 0.0


# ---- one bucket ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(PER_MINUTE, st.lists(st.tuples(NS, st.integers(0, 10**6)), max_size=20), st.integers(0, 1))
def test_the_wait_is_exact(per_minute: int, uses: list[tuple[int, int]], least: int) -> None:
    """A nanosecond less than it says is too early; as long as it says is enough."""
    now = 0
    bucket = Bucket(per_minute, now)
    for step, n in uses:
        now += step
        bucket.take(n, now)
    wait = bucket.wait_ns(least, now)
    if wait > 0:
        assert bucket.wait_ns(least, now + wait - 1) == 1
    assert bucket.wait_ns(least, now + wait) == 0


@settings(deadline=None)
@given(PER_MINUTE, st.lists(st.tuples(NS, st.integers(0, 10**6)), max_size=20))
def test_how_time_is_cut_does_not_matter(per_minute: int, uses: list[tuple[int, int]]) -> None:
    """One that is looked at all the time and one that is not hold the same: nothing is rounded."""
    now = 0
    watched, left_alone = Bucket(per_minute, now), Bucket(per_minute, now)
    for step, n in uses:
        for part in range(1, 8):
            watched.wait_ns(0, now + step * part // 8)
        now += step
        watched.take(n, now)
        left_alone.take(n, now)
        assert watched.wait_ns(1, now) == left_alone.wait_ns(1, now)


@settings(deadline=None)
@given(PER_MINUTE)
def test_it_holds_one_minutes_worth(per_minute: int) -> None:
    bucket = Bucket(per_minute, 0)
    later = 1000 * MINUTE_NS
    bucket.take(per_minute, later)
    assert bucket.wait_ns(1, later) == -(-MINUTE_NS // per_minute)
    bucket.take(per_minute, later)  # a minute's debt
    assert bucket.wait_ns(0, later) - MINUTE_NS in (0, 1)


@settings(deadline=None)
@given(PER_MINUTE, NS, st.integers(0, 10**6))
def test_giving_back_undoes_taking(per_minute: int, at: int, n: int) -> None:
    bucket, untouched = Bucket(per_minute, 0), Bucket(per_minute, 0)
    for each in (bucket, untouched):
        each.take(per_minute, 0)
    bucket.take(n, at)
    bucket.take(-n, at)
    assert bucket.wait_ns(1, at) == untouched.wait_ns(1, at)


def test_giving_back_never_overfills() -> None:
    bucket = Bucket(2, 0)
    bucket.take(-5, 0)
    bucket.take(2, 0)
    assert bucket.wait_ns(1, 0) == MINUTE_NS // 2


def test_time_that_runs_backwards_adds_nothing() -> None:
    bucket = Bucket(60, 1000)
    bucket.take(60, 1000)
    assert bucket.wait_ns(1, 500) == bucket.wait_ns(1, 1000) == MINUTE_NS // 60


# ---- keys ----------------------------------------------------------------------------------------


def test_no_limits_no_refusals() -> None:
    limiter = Limiter(Hands())
    for _ in range(1000):
        limiter.admit(Key("a", "a"), 10**9)


def test_requests_a_minute() -> None:
    clock, key = Hands(), Key("a", "web", requests_per_minute=3)
    limiter = Limiter(clock)
    for _ in range(3):
        limiter.admit(key, 10**9)
    error = refusal(lambda: limiter.admit(key, 0))
    assert str(error) == "key 'web' has used up its requests a minute (3); try again in 20.0 s"
    assert error.retry_after_s == 20
    clock.now_ns += 20 * 10**9 - 1
    refusal(lambda: limiter.admit(key, 0))
    clock.now_ns += 1
    limiter.admit(key, 0)


def test_tokens_a_minute() -> None:
    """One request may go into debt; the next waits until the debt is paid."""
    clock, key = Hands(), Key("a", "web", tokens_per_minute=6000)
    limiter = Limiter(clock)
    limiter.admit(key, 5999)
    limiter.admit(key, 1000)  # one token was left
    error = refusal(lambda: limiter.admit(key, 1))
    assert "tokens a minute (6,000); try again in 10.0 s" in str(error)
    limiter.charge(key, 500)  # an answer ends
    error = refusal(lambda: limiter.admit(key, 1))
    assert error.retry_after_s == pytest.approx(1499 / 100, abs=1e-6)
    clock.now_ns += 15 * 10**9
    limiter.admit(key, 1)


def test_a_prompt_longer_than_the_limit_passes_alone() -> None:
    clock, key = Hands(), Key("a", "web", tokens_per_minute=10)
    limiter = Limiter(clock)
    limiter.admit(key, 100)
    assert refusal(lambda: limiter.admit(key, 1)).retry_after_s == pytest.approx(540, abs=1e-6)


def test_a_refusal_takes_nothing() -> None:
    clock, key = Hands(), Key("a", "web", requests_per_minute=1000, tokens_per_minute=60)
    limiter = Limiter(clock)
    limiter.admit(key, 61)
    waits = {refusal(lambda: limiter.admit(key, 10)).retry_after_s for _ in range(2000)}
    assert len(waits) == 1
    clock.now_ns += 2 * 10**9
    limiter.admit(key, 0)


def test_the_longer_wait_is_told() -> None:
    clock, key = Hands(), Key("a", "web", requests_per_minute=1, tokens_per_minute=60)
    limiter = Limiter(clock)
    limiter.admit(key, 60)
    assert "requests a minute (1); try again in 60.0 s" in str(refusal(lambda: limiter.admit(key, 0)))
    limiter.charge(key, 600)
    assert "tokens a minute (60); try again in 600.0 s" in str(refusal(lambda: limiter.admit(key, 0)))


def test_what_was_given_back_can_be_used() -> None:
    limiter, key = Limiter(Hands()), Key("a", "web", requests_per_minute=1, tokens_per_minute=1)
    for _ in range(100):
        limiter.admit(key, 1)
        limiter.give_back(key, 1)
    limiter.admit(key, 1)


def test_keys_do_not_share() -> None:
    limiter = Limiter(Hands())
    for name in ("a", "b", "c"):
        key = Key(name, name, requests_per_minute=1)
        assert wait_for(limiter, key, 0) == 0
        assert wait_for(limiter, key, 0) == 60


@settings(deadline=None)
@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.lists(st.tuples(st.integers(0, MINUTE_NS // 4), st.integers(0, 300), st.integers(0, 300)), max_size=40),
)
def test_no_key_gets_more_than_its_rate(requests: int, tokens: int, uses: list[tuple[int, int, int]]) -> None:
    """Over any time: at most the rate and one burst, and of tokens what the last request and its answer took; and
    whoever waits as long as it was told passes."""
    clock, key = Hands(), Key("a", "web", requests_per_minute=requests, tokens_per_minute=tokens)
    limiter = Limiter(clock)
    began_ns, n_requests, n_tokens, last = clock.now_ns, 0, 0, 0
    for step, prompt, answer in uses:
        clock.now_ns += step
        wait_s = wait_for(limiter, key, prompt)
        if wait_s:
            clock.now_ns += math.ceil(wait_s * 1e9) + 1000  # a float's error after so many minutes
            limiter.admit(key, prompt)
        limiter.charge(key, answer)
        last = prompt + answer
        n_requests, n_tokens = n_requests + 1, n_tokens + last
        minutes = (clock.now_ns - began_ns) / MINUTE_NS
        assert n_requests <= requests * (1 + minutes) + 1e-6
        assert n_tokens - last < tokens * (1 + minutes) + 1e-6


def test_threads_share_a_limit() -> None:
    limiter, key = Limiter(Hands()), Key("a", "web", requests_per_minute=500)
    admitted: list[int] = []

    def ask() -> None:
        for i in range(200):
            try:
                limiter.admit(key, 0)
            except AccountError:
                continue
            admitted.append(i)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 500
