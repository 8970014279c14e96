"""The layers before the page, over an application that stands for Gradio's; no Gradio is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from octuor.accounts import Accounts
from octuor.server.app import create_app
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from octuor.ui.mount import Page, PageFront
from octuor.ui.visitors import user_of
from server.fake_engine import FakeEngine, says
from server.http_client import pocket

PAGE = '<html><head><meta property="og:title" content="Gradio" /><script>1</script></head><body><script src="a.js">'


class Fronted:
    """A server with a page before it, and requests to both.

    events  what happened to the page's lifespan
    asked   paths that reached the page
    """

    def __init__(self, files: Path, accounts: Accounts | None = None, settings: ServerSettings | None = None) -> None:
        self.events: list[str] = []
        self.asked: list[str] = []
        self.serving = Serving(
            Registry([Served("pocket", pocket(), FakeEngine(says("Hi", " there")))]),
            accounts,
            settings or ServerSettings(),
        )
        page = Page(self._page(), files)
        self.app = create_app(self.serving, front=[Middleware(PageFront, page=page, serving=self.serving)])

    def request(self, method: str, path: str, *, base: str = "http://localhost", **options: Any) -> httpx.Response:
        """One request; options are httpx's."""
        return asyncio.run(self.arequest(method, path, base=base, **options))

    async def arequest(
        self, method: str, path: str, *, base: str = "http://localhost", **options: Any
    ) -> httpx.Response:
        """The same in a running loop."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **options)

    def _page(self) -> Starlette:
        async def root(request: Request) -> Response:
            self.asked.append(request.url.path)
            assert "accept-encoding" not in request.headers
            return HTMLResponse(f"{PAGE}{request.scope.get('root_path', '')}")

        async def other(request: Request) -> Response:
            self.asked.append(request.url.path)
            if request.url.path.endswith("/bug"):
                raise ZeroDivisionError
            body = await request.body()
            user = user_of(SimpleNamespace(request=request))
            return JSONResponse({"owner": user.owner, "key": user.key, "client": user.client, "n": len(body)})

        async def data(request: Request) -> Response:
            async def beats() -> AsyncIterator[str]:
                if request.query_params.get("session_hash") == "unknown":
                    yield "data: SESSION NOT FOUND\n\n"
                    raise HTTPException(404)
                while True:
                    yield "data: ALIVE\n\n"
                    await asyncio.sleep(0.01)

            return StreamingResponse(beats(), media_type="text/event-stream")

        async def file(request: Request) -> Response:
            self.asked.append(request.url.path)
            return FileResponse(request.url.path.removeprefix("/gradio_api/file="))

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self.events.append("began")
            yield
            self.events.append("ended")

        routes = [
            Route("/", root),
            Route("/gradio_api/queue/data", data),
            Route("/gradio_api/file={path:path}", file),
            Route("/{path:path}", other, methods=["GET", "POST"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan)
