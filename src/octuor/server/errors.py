"""Errors as clients read them: one body for `/v1` that every client understands, another for the TGI routes.

Routes raise ApiError; whatever else comes out of them is turned into one by `install`. The body follows the path:
clients of TGI break on an `error` that is an object, those of `/v1` on one that is a string.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from octuor.errors import (
    AccountError,
    CapacityError,
    GrammarError,
    OctuorError,
    OverloadError,
    RequestError,
    TokenizerError,
)
from octuor.server.connection import ClientGoneError
from octuor.server.json_text import dumps
from octuor.server.record import record_of

TGI_PATHS = frozenset({"/", "/generate", "/generate_stream"})
CLIENT_GONE = 499  # nginx's number for it
MAX_DETAILS = 20  # of one request: a list of 100,000 wrong messages is wrong at its first
MAX_FOUND = 80  # characters of what was found that a message repeats

logger = logging.getLogger(__name__)


class ApiError(HTTPException):
    """An answer other than 2xx.

    type     what kind: "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    param    the field that is wrong, dots between its parts: "messages.0.content"
    code     what a program may look for: "model_not_found", "context_length_exceeded" …
    details  with 422: a list of {"loc", "msg", "type"}, as FastAPI's
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        details: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.message = message
        self.type = type or _type_of(status)
        self.param = param
        self.code = code
        self.details = list(details)


def invalid(message: str, param: str, *, kind: str = "value_error") -> ApiError:
    """A value that a request model could not see to be wrong: 422, with its detail."""
    detail = {"loc": ["body", *param.split(".")], "msg": message, "type": kind}
    return ApiError(422, message, param=param, details=[detail])


def model_not_found(name: str, known: Sequence[str]) -> ApiError:
    """404 for a name that is no model here."""
    found = _shortened(name)
    return ApiError(
        404,
        f"The model {found} does not exist here; expected one of {', '.join(known)}",
        param="model",
        code="model_not_found",
    )


def from_octuor(error: OctuorError) -> ApiError:
    """The answer to an error of our own, by its class."""
    message = str(error)
    if isinstance(error, OverloadError):
        headers = {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
        if error.is_draining:
            return ApiError(503, message, "server_error", code="draining", headers=headers)
        return ApiError(429, message, "rate_limit_error", code="queue_full", headers=headers)
    if isinstance(error, AccountError):
        return _from_account(error)
    if isinstance(error, RequestError):
        return invalid(message, _field(message) or "body")
    if isinstance(error, GrammarError | TokenizerError):
        return ApiError(400, message, param=_field(message))
    if isinstance(error, CapacityError):
        return ApiError(503, message, headers={"retry-after": "1"})
    logger.error("%s: %s", type(error).__name__, message)
    return ApiError(500, message)


def _field(message: str) -> str | None:
    """The field that one of our messages begins with, as in "tools[0].function.name: expected …"."""
    found = re.match(r"[a-z_]+(\[\d+\]|\.\w+)*(?=: )", message)
    return None if found is None else re.sub(r"\[(\d+)\]", r".\1", found[0])


def _from_account(error: AccountError) -> ApiError:
    message = str(error)
    if error.kind == "rate_limited":
        headers = {"retry-after": str(max(1, math.ceil(error.retry_after_s or 0)))}
        return ApiError(429, message, code="rate_limit_exceeded", headers=headers)
    if error.kind == "model_not_allowed":
        return ApiError(403, message, param="model", code="model_not_allowed")
    if error.kind == "state":
        logger.error("accounts: %s", message)
        return ApiError(503, "The server's accounts cannot be used now; its log says why", code="accounts")
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def as_api_error(error: Exception) -> ApiError:
    """Whatever was raised, as an answer; a bug of ours says no more than that."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OctuorError):
        return from_octuor(error)
    return ApiError(500, "Something went wrong in the server; its log says what")


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """The JSON of an error, in the dialect of the path it was met on."""
    if path in TGI_PATHS:
        return tgi_body(error)
    inner = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body: dict[str, Any] = {"object": "error", **inner, "error": inner}
    if error.status_code == 422:
        body["detail"] = error.details or [{"loc": ["body"], "msg": error.message, "type": "value_error"}]
    return body


def tgi_body(error: ApiError) -> dict[str, Any]:
    """The JSON of an error on TGI's routes; `error_type` is "validation" for bad input only.

    TGI has no word for a missing key or a wrong method; without `error_type` its clients tell the status.
    """
    if error.status_code in (400, 413, 415, 422):
        prefix = "" if error.message.startswith("Input validation error") else "Input validation error: "
        return {"error": prefix + error.message, "error_type": "validation"}
    if error.status_code in (401, 403, 404, 405):
        return {"error": error.message}
    return {"error": error.message, "error_type": "overloaded" if error.status_code in (429, 503) else "generation"}


def error_response(path: str, error: ApiError) -> Response:
    """The whole answer. TGI's clients repeat for ever on 503, so there it is 429; and bad input is 422 always."""
    status = error.status_code
    if path in TGI_PATHS:
        status = {400: 422, 503: 429}.get(status, status)
    return Response(dumps(error_body(path, error)), status, error.headers, "application/json")


def from_validation(errors: Sequence[Mapping[str, Any]], *, as_tgi: bool = False) -> ApiError:
    """422 of what pydantic found: the message names the first field, what it should be and what it is."""
    details = [
        {"loc": _place(error["loc"]), "msg": str(error["msg"]), "type": str(error["type"])}
        for error in errors[:MAX_DETAILS]
    ]
    first = errors[0]
    param = ".".join(map(str, details[0]["loc"][1:])) or None
    field = param or "body"
    wanted = _wanted(first)
    if as_tgi:
        message = f"Input validation error: `{field.removeprefix('parameters.')}` must be {wanted or 'given'}"
    elif wanted is None:
        message = f"{field}: expected a value, found none"
    else:
        message = f"{field}: expected {wanted}, found {_shortened(first.get('input'))}"
    return ApiError(422, message, param=param, details=details)


def _wanted(error: Mapping[str, Any]) -> str | None:
    """What a value should have been, in words that follow "expected"; None: it was not there."""
    kind, said = str(error["type"]), str(error["msg"])
    if kind == "missing":
        return None
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "an object"
    if kind == "too_short":
        return f"at least {error['ctx']['min_length']} items"
    return said.removeprefix("Input should be ").removeprefix("Value error, ")


def install(app: FastAPI) -> None:
    """Give the application our bodies in place of FastAPI's and Starlette's; bugs are middleware.observe's."""

    async def on_http(request: Request, error: Exception) -> Response:
        if not isinstance(error, ApiError):
            assert isinstance(error, HTTPException)
            error = _from_http(request, error)
        return _answer(request, error)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(request, from_validation(error.errors(), as_tgi=request.url.path in TGI_PATHS))

    async def on_octuor(request: Request, error: Exception) -> Response:
        return _answer(request, as_api_error(error))

    async def on_gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
        record_of(request.scope).is_client_gone = True
        return Response(status_code=CLIENT_GONE)  # for the log: nobody reads it

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(OctuorError, on_octuor)
    app.add_exception_handler(ClientGoneError, on_gone)


def _answer(request: Request, error: ApiError) -> Response:
    record_of(request.scope).error = error
    return error_response(request.url.path, error)


def _from_http(request: Request, error: HTTPException) -> ApiError:
    """Of Starlette's own: no such path, no such method there, a body that cannot be read."""
    path, method = _shortened(request.url.path), request.method
    message = {
        404: f"There is no {path} here; /docs lists what there is",
        405: f"{path} takes {(error.headers or {}).get('Allow', 'another method')}, not {method}",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers)


def _type_of(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _place(loc: Sequence[object]) -> list[str | int]:
    """Where it is, without the names that pydantic gives to the members of a union."""
    return [part for part in loc if isinstance(part, int) or (isinstance(part, str) and part.isidentifier())]


def _shortened(value: object) -> str:
    """What was found, in a few words, whatever it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_FOUND else value[:MAX_FOUND] + "…")
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of many digits"
    return repr(value)[:MAX_FOUND]
