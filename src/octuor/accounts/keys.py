"""API keys: what they look like, what is known of them, and how a secret is compared.

A key is "sk-", 8 letters and digits that name it, and 32 that prove it: 190 random bits. The first 11 characters are
its id: they are public, stand in lists, and find the one digest that a secret is compared with.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from dataclasses import dataclass
from typing import NoReturn

from octuor.errors import AccountError

ALPHABET = string.ascii_letters + string.digits
PREFIX = "sk-"
ID_LENGTH = len(PREFIX) + 8
SECRET_LENGTH = 32
MAX_NAME = 64
MAX_PER_MINUTE = 10**12  # far above any machine, far below SQLite's largest integer
MAX_TIME = 253_402_300_799  # the last second of 9999, which is the last that datetime can say


@dataclass(frozen=True)
class Key:
    """What is known of a key; nothing here could be used to make a request. Times are seconds since 1970, UTC.

    id          public, of every key that was ever made another one
    name        the operator's; of keys that are neither revoked nor expired another one each
    expires_at  refused from this second on; None: never
    revoked_at  None: not
    requests_per_minute, tokens_per_minute  None: no limit
    models      names of models it may use; None: all
    """

    id: str
    name: str
    created_at: int = 0
    expires_at: int | None = None
    revoked_at: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: frozenset[str] | None = None

    def allows(self, *names: str) -> bool:
        """Whether it may use the model that has these names; one of them is enough."""
        return self.models is None or not self.models.isdisjoint(names)

    def is_expired(self, now: float) -> bool:
        """Whether its time is over at `now`."""
        return self.expires_at is not None and now >= self.expires_at


# Who asks while no key has been made; accounted like a key. No key can take its name or id.
LOCAL = Key(id="local", name="local")


def make_secret() -> str:
    """A new key, from the operating system's randomness. Only its owner may ever see it: keep digest_of(it)."""
    return PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH - len(PREFIX) + SECRET_LENGTH))


def id_of(secret: str) -> str:
    """The public part of what may be a key."""
    return secret[:ID_LENGTH]


def digest_of(secret: str) -> bytes:
    """What is stored in place of a key: 32 bytes.

    One round of SHA-256 without salt is enough here. Slow hashes and salts defend passwords, which people choose and
    thieves guess; nobody guesses 190 random bits, and no two keys are the same. And a slow hash for each request
    would let strangers keep the server busy.
    """
    # a header's bytes may come as lone surrogates: no key has any, but they must not raise either
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def check_key(key: Key) -> None:
    """Raise AccountError of kind "state" unless a key could be made like this."""
    name = key.name
    # names stand in logs, tables and metrics: on one line, short, and never to be mistaken for an id or a whole key
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        _refuse("name", f"1 to {MAX_NAME} printable characters without blanks around them", name[: 2 * MAX_NAME])
    if name.startswith(PREFIX) or name == LOCAL.name:
        _refuse("name", f'anything but "{LOCAL.name}" or what begins with "{PREFIX}"', id_of(name))
    for what, limit in (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute)):
        if limit is not None and not 1 <= limit <= MAX_PER_MINUTE:
            _refuse(f"{what} a minute", f"a number from 1 to {MAX_PER_MINUTE}", limit)
    if key.expires_at is not None and not key.created_at < key.expires_at <= MAX_TIME:
        _refuse("expiry", "a time to come, before the year 10000", key.expires_at)
    if key.models is not None and not key.models:
        _refuse("models", "one name or more", "none")
    for model in sorted(key.models or ()):
        if not model.isprintable() or not model.strip() or "," in model:
            _refuse("models", "printable names without commas", model)


def _refuse(what: str, expected: str, found: object) -> NoReturn:
    raise AccountError(f"{what} of a key: expected {expected}, found {found!r}", kind="state")
