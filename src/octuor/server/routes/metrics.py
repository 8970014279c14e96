"""GET /metrics: what Prometheus scrapes, without a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from octuor.server.serving import Serving, serving_of

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, serving: Annotated[Serving, Depends(serving_of)]) -> Response:
    """All metrics in Prometheus's text format, or OpenMetrics where Accept asks for it."""
    data, content_type = serving.metrics.exposition(request.headers.get("accept", ""))
    return Response(data, headers={"content-type": content_type})
