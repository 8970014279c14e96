"""How the server is."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class Reason(TypedDict):
    """Why it does not answer, in llama-server's shape."""

    message: str
    type: Literal["unavailable_error"]
    code: int


class Health(TypedDict):
    """What /health and the paths below it answer."""

    status: Literal["ok", "loading", "draining"]
    error: NotRequired[Reason]
