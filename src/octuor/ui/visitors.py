"""Whose page it is: a random id that a browser keeps in a cookie, and the API key of those who gave one.

The key itself never goes back to the browser: its cookie names a session, which is held in this process's memory and
ends with the browser's, after a day without use, or with the process.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octuor.accounts import Accounts
from octuor.errors import AccountError
from octuor.ui.backend import User

BROWSER_COOKIE = "octuor_browser"
SESSION_COOKIE = "octuor_session"
KEPT_S = 400 * 24 * 3600  # the longest that browsers keep a cookie
SESSION_S = 24 * 3600
MAX_SESSIONS = 10_000
GIVEN_AT = ("/", "/gradio_api/queue/join")  # and not with files, which are fetched side by side

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits
_STATE = "octuor_user"


class Sessions:
    """API keys by the sessions that they were given in. Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def open(self, secret: str) -> str:
        """A new session's token."""
        token = secrets.token_urlsafe(32)
        self._found[token] = (secret, self._clock())
        while len(self._found) > MAX_SESSIONS:
            self._found.popitem(last=False)
        return token

    def secret(self, token: str) -> str | None:
        """The key of a session; None where it has ended."""
        secret, used_at = self._found.get(token, ("", 0.0))
        if not secret:
            return None
        if self._clock() - used_at > SESSION_S:
            del self._found[token]
            return None
        self._found[token] = (secret, self._clock())
        self._found.move_to_end(token)
        return secret

    def close(self, token: str) -> None:
        """End a session, if there is one."""
        self._found.pop(token, None)


class Visitors:
    """Finds out who asks, for `user_of`, and gives a browser that is new its cookie."""

    def __init__(self, app: ASGIApp, accounts: Accounts | None, sessions: Sessions) -> None:
        self._app = app
        self._accounts = accounts
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookies = HTTPConnection(scope).cookies
        browser = cookies.get(BROWSER_COOKIE, "")
        is_known = _TOKEN.fullmatch(browser) is not None
        if not is_known:
            browser = secrets.token_urlsafe(32)
        client = (scope.get("client") or ("",))[0]
        scope.setdefault("state", {})[_STATE] = self._user(browser, cookies.get(SESSION_COOKIE, ""), client)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_known and scope["path"] in GIVEN_AT:
                headers = MutableHeaders(scope=message)
                headers.append("set-cookie", cookie(scope, BROWSER_COOKIE, browser, max_age_s=KEPT_S))
            await send(message)

        await self._app(scope, receive, answer)

    def _user(self, browser: str, token: str, client: str) -> User:
        secret = self._sessions.secret(token) if token else None
        if secret is None or self._accounts is None or not self._accounts.has_keys():
            return User(browser, client=client)
        try:
            return User(browser, secret, self._accounts.authenticate(secret).id, client)
        except AccountError:  # revoked or expired since
            self._sessions.close(token)
            return User(browser, client=client)


class HoldsRequest(Protocol):
    """What `user_of` needs of gradio.Request."""

    request: Any


def user_of(request: HoldsRequest) -> User:
    """Who has asked for what one of Gradio's functions is called for: pass on its `gr.Request`."""
    return scope_user(request.request.scope)


def scope_user(scope: Scope) -> User:
    """Who has sent a request that came through Visitors."""
    user: User = scope["state"][_STATE]
    return user


def cookie(scope: Scope, name: str, value: str, *, max_age_s: int | None = None) -> str:
    """The Set-Cookie of a value that only this server reads. max_age_s: None ends with the browser's session, 0 now."""
    jar: SimpleCookie = SimpleCookie()
    jar[name] = value
    morsel = jar[name]
    morsel["path"] = scope.get("root_path", "") or "/"
    morsel["httponly"] = True
    morsel["samesite"] = "Lax"
    morsel["secure"] = scope["scheme"] == "https"
    if max_age_s is not None:
        morsel["max-age"] = max_age_s
    return morsel.OutputString()
