"""What a browser may do with the page, and what of Gradio can be reached: everything else is refused.

An answer may hold anything. Gradio sanitizes what it renders; the policy here holds where that should fail: no script
but the page's own runs, and nothing is fetched from another address, pictures in an answer included.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octuor.server.errors import ApiError, error_response
from octuor.server.record import record_of

FILE_PREFIX = "/gradio_api/file="

# What the page itself asks Gradio for. Not among it: descriptions of its functions, files of the disk, other servers'
# pages by way of this one (file=https://…, proxy=), histories of runs.
READ = re.compile(
    r"/|/theme\.css|/config|/(assets|static|svelte)/[^?]*"
    r"|/gradio_api/(queue/data|heartbeat/[\w-]+|startup-events|upload_progress|theme\.css)"
    r"|/ui/(page\.js|style\.css|export/[0-9a-f]+\.(md|json))"
)
WRITTEN = re.compile(r"/gradio_api/(queue/join|cancel|reset|component_server|upload|run/[\w-]+)/?")
STREAMS = re.compile(r"/gradio_api/(queue/data|heartbeat/[\w-]+)")
PAGE_PATHS = re.compile(
    r"/|/theme\.css|/config/?|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte|gradio_api|ui)(/.*|=.*)?"
)

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-dns-prefetch-control": "off",  # links in an answer
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}

_SCRIPT = re.compile(rb"<script(?=[\s>])")
# Before Gradio's own: the language is chosen before it asks the browser for one, and the page never shows unstyled.
_OURS = (
    b'<link rel="icon" href="data:image/svg+xml,'
    b"%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    b"%3Ccircle cx='20' cy='16' r='10' fill='%235eead4'/%3E"
    b"%3Ccircle cx='12' cy='16' r='11' fill='%230f766e'/%3E%3C/svg%3E\">"
    b'<link rel="stylesheet" href="./ui/style.css"><script src="./ui/page.js"></script>'
)
_THEIRS = re.compile(rb'\s*<(?:meta\s+(?:property="og:|name="twitter:)|link\s+rel="manifest")[^>]*>')


def policy(nonce: str = "") -> str:
    """The Content-Security-Policy of the page, or of a page without scripts.

    Gradio writes styles into elements; it needs no more than that, as long as no event of the page brings a script of
    its own (js=), which would be evaluated.
    """
    scripts = f"'self' 'nonce-{nonce}'" if nonce else "'none'"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def is_page_path(scope: Scope) -> bool:
    """Whether a request is for the page; all others are for the routes that were there before it."""
    if scope["path"] == "/":  # a POST to it is TGI's
        return scope["method"] in ("GET", "HEAD")
    return PAGE_PATHS.fullmatch(scope["path"]) is not None


class SafeHeaders:
    """Adds the headers; the page's own scripts get the mark without which none runs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        nonce, record = secrets.token_urlsafe(18), record_of(scope)
        is_page = scope["path"] == "/"
        if is_page:  # its text is changed below, so it must not come compressed
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message | None = None
        parts: list[bytes] = []

        async def answer(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["content-security-policy"] = policy(nonce)
                if is_page:
                    headers["cache-control"] = "no-store"
                    start = message
                    return
            elif start is not None:
                parts.append(message.get("body", b""))
                if message.get("more_body", False):
                    return
                body = marked(b"".join(parts), nonce)
                if record.error is not None:  # said to programs by the layer that refused; here people read it
                    body = f"Octuor: {record.error.message}\n".encode()
                    start["status"] = record.error.status_code
                    MutableHeaders(scope=start)["content-type"] = "text/plain; charset=utf-8"
                if scope["method"] != "HEAD":
                    MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self._app(scope, receive, answer)


def marked(html: bytes, nonce: str) -> bytes:
    """The page with its scripts marked, and without what it says of itself to other sites."""
    head, opening, body = html.partition(b"<body")
    head = _THEIRS.sub(b"", head).replace(b"<script", _OURS + b"<script", 1)
    return _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), head + opening + body)


class OwnPagesOnly:
    """Answers 403 to requests that pages of other sites make."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_visit = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")  # a link from anywhere
        if is_visit or is_from_own_page(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = record_of(scope).error = ApiError(
            403, "origin: expected a request of this page's own, found another site's", code="cross_site"
        )
        await error_response(scope["path"], error)(scope, receive, send)


def is_from_own_page(headers: Headers) -> bool:
    """Whether a browser says that the page comes from where it asks, or no browser asks."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")  # browsers say less where the connection is not encrypted
    if origin is None:
        return True
    host = headers.get("x-forwarded-host", headers.get("host", "")).partition(",")[0].strip()
    return urlsplit(origin).netloc.lower() == host.lower()


class PageRoutesOnly:
    """Answers 404 to whatever the page does not need of Gradio.

    files  the folder of what Gradio was given and gives out
    """

    def __init__(self, app: ASGIApp, files: Path) -> None:
        self._app = app
        self._files = files.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_needed(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        error = record_of(scope).error = ApiError(404, "Not Found")
        await error_response(scope["path"], error)(scope, receive, send)

    def _is_needed(self, method: str, path: str) -> bool:
        if method == "POST":
            return WRITTEN.fullmatch(path) is not None
        if method not in ("GET", "HEAD"):
            return False
        if path.startswith(FILE_PREFIX):
            return self._is_own_file(path.removeprefix(FILE_PREFIX))
        return READ.fullmatch(path) is not None

    def _is_own_file(self, name: str) -> bool:
        """Only whole paths, of files that lie in the folder whatever links are on the way."""
        if not name.startswith("/") or "\0" in name:
            return False
        found = Path(name)
        return found.resolve().is_relative_to(self._files) and found.is_file()
