"""Requests and tokens a minute, as buckets that fill at a steady rate; counted in this process's memory.

A bucket holds at most one minute's worth, and starts full. A request passes if the bucket of requests holds at least
one and the bucket of tokens holds anything at all; it then takes one request and its prompt's tokens, and its answer's
tokens when it ends. Nobody knows an answer's length beforehand, so the bucket of tokens may go into debt, by answers
under way and by a prompt longer than what is left: the next request waits until the debt is paid. So a key that has
been idle may use a minute's worth at once, and over a long time no key gets more than its rate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from octuor.accounts.keys import Key
from octuor.errors import AccountError

MINUTE_NS = 60_000_000_000


class Bucket:
    """A minute's worth of something, in whole numbers: a level counts 1 / MINUTE_NS, so that a nanosecond adds exactly
    `per_minute` and a caller who waits as long as it was told never comes a rounding error too early."""

    def __init__(self, per_minute: int, now_ns: int) -> None:
        self.per_minute = per_minute
        self._level = self._full = per_minute * MINUTE_NS
        self._at_ns = now_ns

    def take(self, n: int, now_ns: int) -> None:
        """Take n, into debt if need be; a negative n gives back."""
        self._fill(now_ns)
        self._level = min(self._full, self._level - n * MINUTE_NS)

    def wait_ns(self, n: int, now_ns: int) -> int:
        """Nanoseconds until it holds n whole ones, at most a minute's worth of them; 0 asks for anything at all."""
        self._fill(now_ns)
        missing = (n * MINUTE_NS if n else 1) - self._level
        return max(0, -(-missing // self.per_minute))

    def _fill(self, now_ns: int) -> None:
        self._level = min(self._full, self._level + max(0, now_ns - self._at_ns) * self.per_minute)
        self._at_ns = max(self._at_ns, now_ns)


class Limiter:
    """The buckets of all keys that have limits, each made when its key is first used. For any thread.

    now_ns  a time that never jumps
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], Bucket] = {}  # of a key's id and a unit

    def admit(self, key: Key, prompt_tokens: int) -> None:
        """Take one request and its prompt's tokens, or raise AccountError of kind "rate_limited" and take nothing."""
        with self._lock:
            now_ns = self._now_ns()
            requests, tokens = self._of(key, "requests", now_ns), self._of(key, "tokens", now_ns)
            waits = [
                (bucket.wait_ns(least, now_ns), unit, bucket.per_minute)
                for bucket, least, unit in ((requests, 1, "requests"), (tokens, 0, "tokens"))
                if bucket is not None
            ]
            wait_ns, unit, per_minute = max(waits, default=(0, "", 0))
            if wait_ns:
                wait_s = wait_ns / 1e9
                raise AccountError(
                    f"key {key.name!r} has used up its {unit} a minute ({per_minute:,}); try again in {wait_s:.1f} s",
                    kind="rate_limited",
                    retry_after_s=wait_s,
                )
            if requests is not None:
                requests.take(1, now_ns)
            if tokens is not None:
                tokens.take(prompt_tokens, now_ns)

    def charge(self, key: Key, n_tokens: int) -> None:
        """Take an answer's tokens, into debt if need be."""
        self._take(key, 0, n_tokens)

    def give_back(self, key: Key, prompt_tokens: int) -> None:
        """Undo an `admit`."""
        self._take(key, -1, -prompt_tokens)

    def _take(self, key: Key, n_requests: int, n_tokens: int) -> None:
        with self._lock:
            now_ns = self._now_ns()
            for unit, n in (("requests", n_requests), ("tokens", n_tokens)):
                bucket = self._of(key, unit, now_ns)
                if bucket is not None:
                    bucket.take(n, now_ns)

    def _of(self, key: Key, unit: str, now_ns: int) -> Bucket | None:
        per_minute = key.requests_per_minute if unit == "requests" else key.tokens_per_minute
        if per_minute is None:
            return None
        bucket = self._buckets.get((key.id, unit))
        if bucket is None:
            bucket = self._buckets[key.id, unit] = Bucket(per_minute, now_ns)
        return bucket
