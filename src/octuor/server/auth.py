"""Who asks: the API key of a request, checked before its body is read."""

from __future__ import annotations

from fastapi import Request

from octuor.accounts import LOCAL, Key
from octuor.server.record import record_of
from octuor.server.serving import serving_of


def authorize(request: Request) -> Key:
    """The caller's key, noted in the request's record; LOCAL where the server has none.

    Raises AccountError.
    """
    accounts = serving_of(request).accounts
    key = LOCAL if accounts is None else accounts.authenticate(_secret(request))
    record_of(request.scope).key = key.name
    request.state.key = key
    return key


def key_of(request: Request) -> Key:
    """The dependency: whose request it is."""
    key: Key = request.state.key
    return key


def _secret(request: Request) -> str | None:
    """What follows "Bearer"; None where nothing does."""
    scheme, _, secret = request.headers.get("authorization", "").strip().partition(" ")
    secret = secret.strip()
    return secret if scheme.lower() == "bearer" and secret else None
