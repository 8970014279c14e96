"""Whether the server lives, and whether it answers: for load balancers and supervisors, without a key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from octuor.server.json_text import dumps
from octuor.server.schemas.health import Health
from octuor.server.serving import Serving, serving_of

router = APIRouter(tags=["operation"])

REASONS = {
    "loading": "The model is still loading",
    "draining": "The server is about to stop",
}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "Loading, or about to stop; `status` says which."}
}


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Health)
async def live() -> Response:
    """200 as long as the process answers at all: a supervisor may start it again where it does not."""
    return _ok()


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", response_model=Health, responses=NOT_READY)
@router.get("/health/ready", response_model=Health, responses=NOT_READY)
async def ready(serving: Annotated[Serving, Depends(serving_of)]) -> Response:
    """200 while requests are answered; 503 while the model loads, and from the signal to stop on."""
    if serving.is_ready:
        return _ok()
    status = "draining" if serving.is_draining else "loading"
    body = {
        "status": status,
        "error": {"message": REASONS[status], "type": "unavailable_error", "code": 503},  # as llama-server says it
    }
    return Response(dumps(body), 503, {"retry-after": "5"}, "application/json")


def _ok() -> Response:
    return Response(dumps({"status": "ok"}), media_type="application/json")
