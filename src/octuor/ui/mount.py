"""The page before the server's own routes: one process, one address.

app = create_app(serving, front=page_front(serving, InProcess(serving)))   # imports Gradio, which takes seconds

What is for the page never reaches the server's routes, and the other way round. The page's requests pass layers of
their own, so that neither its files nor its open streams count among the server's requests; its answers do
(in_process).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import tempfile
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octuor.errors import BackendError
from octuor.server.errors import ApiError, error_response
from octuor.server.middleware.body import BodyLimits
from octuor.server.middleware.crowd import CrowdLimit
from octuor.server.middleware.drain import DrainGate
from octuor.server.middleware.hosts import OwnNames
from octuor.server.serving import Serving
from octuor.ui.backend import Backend
from octuor.ui.keys import KeyGate
from octuor.ui.security import STREAMS, OwnPagesOnly, PageRoutesOnly, SafeHeaders, is_page_path
from octuor.ui.visitors import Sessions, Visitors

MAX_UPLOAD = 8_000_000  # bytes of a conversation that is brought in
POLL_S = 0.25

# What a proxy in front says of the path that it gives us: "/chat".
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+){1,8}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """Gradio's application.

    files  the folder of what it was given and gives out; gone when its lifespan ends
    """

    app: Any
    files: Path

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """While it is entered, the page works."""
        return self.app.router.lifespan_context(self.app)


def make_page(backend: Backend) -> Page:
    """Build the page. Raises BackendError without the extra `ui`.

    Gradio's settings are variables of the process that it reads when it is imported: nothing is reported to anybody.
    """
    files = Path(tempfile.mkdtemp(prefix="octuor-ui-"))
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(files),
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_SSR_MODE": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SHARE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        from octuor.ui.gradio_app import make_app

        return Page(make_app(backend, MAX_UPLOAD), files)
    except BaseException as error:
        shutil.rmtree(files, ignore_errors=True)
        if isinstance(error, ModuleNotFoundError):
            raise BackendError(f'ui: expected {error.name}, found none; pip install "octuor[ui]"') from error
        raise


def page_front(serving: Serving, backend: Backend) -> list[Middleware]:
    """The layer that shows the page, for create_app. Raises BackendError without the extra `ui`."""
    return [Middleware(PageFront, page=make_page(backend), serving=serving)]


class PageFront:
    """The outermost layer of the server: takes what is for the page and passes on all else."""

    def __init__(self, app: ASGIApp, page: Page, serving: Serving) -> None:
        self._app = app
        self._page = page
        self._front = _layers(page, serving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                async with self._page.lifespan():
                    await self._app(scope, receive, send)
            finally:
                shutil.rmtree(self._page.files, ignore_errors=True)
        elif scope["type"] == "http" and is_page_path(scope):
            await self._front(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _layers(page: Page, serving: Serving) -> ASGIApp:
    """What the page's requests pass, innermost first here."""
    settings, sessions = serving.settings, Sessions()
    app: ASGIApp = StreamEnd(page.app, serving)
    app = PageRoutesOnly(app, page.files)
    app = KeyGate(app, serving.accounts, sessions)
    app = Visitors(app, serving.accounts, sessions)
    app = BodyLimits(app, settings.limits, min(settings.max_body_bytes, MAX_UPLOAD + 65_536))
    app = CrowdLimit(app, settings.limits.max_requests)
    app = DrainGate(app, serving)
    app = OwnPagesOnly(app)
    app = OwnNames(app, serving)
    app = Prefixed(app)
    return SafeHeaders(Guarded(app))


class Guarded:
    """Bugs of what lies inside are logged, and answered where nothing has been said yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def answer(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except ApiError as error:  # a body that is too large, seen while it came
            if not is_started:
                await error_response(scope["path"], error)(scope, receive, answer)
        except Exception:
            logger.exception("unexpected error on %s %s", scope["method"], scope["path"])
            if not is_started:
                bug = ApiError(500, "Something went wrong in the server; its log says what")
                await error_response(scope["path"], bug)(scope, receive, answer)


class Prefixed:
    """Tells the page under which path a proxy shows it (X-Forwarded-Prefix), so that its own addresses begin so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            scope = {**scope, "root_path": prefix}
        await self._app(scope, receive, send)


class StreamEnd:
    """Ends the streams that open pages hold, once the server drains and no answer is under way.

    And those of sessions that Gradio does not know, for a restart or a hasty reader ended them: it says so to the page,
    which begins anew, and raises the 404 that can no longer be sent. That is no bug.
    """

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not STREAMS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        is_open = False

        async def answer(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        task = asyncio.ensure_future(self._app(scope, receive, answer))
        n_idle = 0
        try:
            while n_idle < 2 and not (await asyncio.wait({task}, timeout=POLL_S))[0]:
                is_idle = self._serving.is_draining and not self._serving.in_progress
                n_idle = n_idle + 1 if is_idle else 0  # the last words of an answer are on their way a little longer
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error.__cause__, HTTPException):
            raise error
        if is_open:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
