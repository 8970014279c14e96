"""The route class of all that need a key: the key first, then the body, read as JSON and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from email.message import Message
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.requests import Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.responses import Response

from octuor.server.auth import authorize
from octuor.server.errors import ApiError
from octuor.server.json_text import JsonError, loads
from octuor.server.schemas.common import ErrorBody

LARGE = 200_000  # bytes of JSON from which on parsing is left to another thread

# What FastAPI's documents say of answers other than 200.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "No JSON, a conversation that cannot be, or too long for the context.",
        401: "No key, or a wrong one.",
        403: "The key may not use this model.",
        404: "No such model.",
        413: "A body beyond the limit.",
        415: "A body that does not say it is JSON.",
        422: "A field with a wrong type or value; detail lists them.",
        429: "The key's limits, or a full queue; Retry-After says when to come back.",
        503: "Loading, or about to stop.",
    }.items()
}


def streams(event: type, description: str = "The answer, whole or as events.") -> dict[int | str, dict[str, Any]]:
    """What the documents say of a 200 whose events hold JSON of that form."""
    data = {"type": "string", "contentMediaType": "application/json", "description": f"{event.__name__}, or [DONE]"}
    item = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {200: {"description": description, "content": {"text/event-stream": {"itemSchema": item}}}}


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose body is JSON by its own account, and parses as we want it."""

    async def body(self) -> bytes:
        """The whole body; middleware.body bounds it. Raises ApiError 400 and 415."""
        if not hasattr(self, "_body"):
            if not await super().body():
                raise ApiError(400, "body: expected JSON, found nothing", code="invalid_json")
            self._check_type()
        return self._body

    async def json(self) -> Any:
        """The body's value. Raises ApiError 400."""
        data = await self.body()
        try:
            return await asyncio.to_thread(loads, data) if len(data) > LARGE else loads(data)
        except JsonError as error:
            raise ApiError(400, f"body: {error}", code="invalid_json") from error

    def _check_type(self) -> None:
        """JSON, or no type at all from a program that is no browser: pages of strangers can send that unasked."""
        header = self.headers.get("content-type")
        if header is None and "origin" not in self.headers and "sec-fetch-site" not in self.headers:
            return
        message = Message()
        message["content-type"] = header or "none"
        kind = message.get_content_type()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise ApiError(
                415,
                f"content-type: expected application/json, found {header!r}; "
                "with curl add -H 'Content-Type: application/json'",
                code="unsupported_media_type",
            )


class KeyedRoute(APIRoute):
    """A route behind the key check."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, after ours."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            own = JsonRequest(request.scope, request.receive, request._send)
            authorize(own)
            return await handle(own)

        return handler


_bearer = HTTPBearer(auto_error=False, description="A key made by `octuor keys create`.")


def keyed_router(*tags: str, errors: Mapping[int | str, dict[str, Any]] = ERRORS) -> APIRouter:
    """A router whose routes need a key and take JSON. errors: their bodies by status, for the OpenAPI document."""
    return APIRouter(route_class=KeyedRoute, tags=list(tags), dependencies=[Depends(_bearer)], responses=dict(errors))
