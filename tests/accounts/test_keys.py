"""Keys: what they look like, what their reprs show, and what a key may be called."""

from __future__ import annotations

import hashlib
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.accounts.keys import (
    ALPHABET,
    ID_LENGTH,
    LOCAL,
    MAX_PER_MINUTE,
    MAX_TIME,
    SECRET_LENGTH,
    Key,
    check_key,
    digest_of,
    id_of,
    make_secret,
)
from octuor.errors import AccountError


def test_a_secret_looks_like_a_key_and_is_long_enough() -> None:
    secrets = {make_secret() for _ in range(100)}
    assert len({id_of(secret) for secret in secrets}) == len(secrets) == 100
    assert all(re.fullmatch(r"sk-[A-Za-z0-9]{40}", secret) for secret in secrets)
    assert {character for secret in secrets for character in secret[ID_LENGTH:]} == set(ALPHABET)
    assert SECRET_LENGTH * math.log2(len(ALPHABET)) >= 160  # bits that the id does not tell


def test_the_id_is_how_a_key_begins() -> None:
    secret = make_secret()
    assert secret.startswith(id_of(secret))
    assert len(id_of(secret)) == ID_LENGTH
    assert id_of("") == ""


@given(st.text())
def test_any_text_has_a_digest(text: str) -> None:
    """Headers are bytes from strangers: what is no text becomes lone surrogates, which are digested all the same."""
    broken = text + b"\xff".decode("utf-8", "surrogateescape")
    assert digest_of(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    assert digest_of(broken) != digest_of(text)


def test_models_by_any_of_their_names() -> None:
    assert Key("sk-1", "a").allows("anything")
    key = Key("sk-1", "a", models=frozenset({"mistral-tiny", "dummy"}))
    assert key.allows("dummy")
    assert key.allows("open-mistral-7b", "mistral-tiny")
    assert not key.allows("open-mistral-7b")
    assert not key.allows()


def test_a_key_is_expired_from_its_second_on() -> None:
    key = Key("sk-1", "a", expires_at=1000)
    assert not key.is_expired(999.999)
    assert key.is_expired(1000)
    assert not Key("sk-1", "a").is_expired(1e12)


@pytest.mark.parametrize("name", ["web", "Anna's laptop", "Büro 3", "[bold]", "a" * 64, "CI/bot@example.org", "-"])
def test_good_names(name: str) -> None:
    check_key(Key("", name))


@pytest.mark.parametrize(
    "name", ["", " ", "a ", " a", "a\nb", "a\x1b[31m", "a\u2028b", "a" * 65, "sk-abc", LOCAL.name, "\ud800"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(AccountError, match=r"name of a key: expected .* found") as caught:
        check_key(Key("", name))
    assert caught.value.kind == "state"
    assert str(caught.value).isprintable()


def test_a_whole_key_given_as_a_name_is_not_repeated() -> None:
    secret = make_secret()
    with pytest.raises(AccountError) as caught:
        check_key(Key("", secret))
    assert secret[ID_LENGTH:] not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (Key("", "a", requests_per_minute=0), "requests a minute"),
        (Key("", "a", requests_per_minute=MAX_PER_MINUTE + 1), "requests a minute"),
        (Key("", "a", tokens_per_minute=-5), "tokens a minute"),
        (Key("", "a", created_at=50, expires_at=50), "expiry"),
        (Key("", "a", created_at=50, expires_at=MAX_TIME + 1), "expiry"),
        (Key("", "a", models=frozenset()), "models"),
        (Key("", "a", models=frozenset({""})), "models"),
        (Key("", "a", models=frozenset({"a,b"})), "models"),
        (Key("", "a", models=frozenset({"a\nb"})), "models"),
    ],
)
def test_impossible_limits(key: Key, says: str) -> None:
    with pytest.raises(AccountError, match=f"^{says} of a key: expected"):
        check_key(key)


def test_possible_limits() -> None:
    check_key(Key("", "a", 50, 51, None, 1, MAX_PER_MINUTE, frozenset({"mistralai/Mixtral-8x7B-Instruct-v0.1"})))
    check_key(Key("", "a", 50, MAX_TIME))
