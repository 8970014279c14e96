"""Where the server has API keys: a field for one before the page, and nothing of the page without."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from octuor.accounts import Accounts
from octuor.errors import AccountError
from octuor.server.errors import ApiError, error_response
from octuor.server.record import record_of
from octuor.ui.visitors import SESSION_COOKIE, Sessions, cookie, scope_user

KEY_PATH = "/ui/key"
FORGET_PATH = "/ui/forget"
MAX_FORM = 4096  # bytes


class KeyGate:
    """Asks for a key, holds it for the browser's session, forgets it; lets pass whoever has given one."""

    def __init__(self, app: ASGIApp, accounts: Accounts | None, sessions: Sessions) -> None:
        self._app = app
        self._accounts = accounts
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, request = scope["path"], Request(scope, receive)
        if path == KEY_PATH and scope["method"] == "POST":
            await (await self._given(request))(scope, receive, send)
        elif path == FORGET_PATH and scope["method"] == "POST":
            await self._forgotten(request)(scope, receive, send)
        elif self._accounts is None or not self._accounts.has_keys() or scope_user(scope).key is not None:
            await self._app(scope, receive, send)
        elif path == "/":
            await _form(request, 401)(scope, receive, send)
        else:
            error = record_of(scope).error = ApiError(401, "expected an API key; load the page and give one")
            await error_response(path, error)(scope, receive, send)

    async def _given(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return _form(request, 413, is_wrong=True)
        secret = (parse_qs(body.decode("latin-1")).get("key") or [""])[0].strip()
        response = _to_page(request)
        if self._accounts is None or not self._accounts.has_keys():
            return response
        try:
            self._accounts.authenticate(secret)
        except AccountError:
            return _form(request, 401, is_wrong=True)
        token = self._sessions.open(secret)
        response.headers.append("set-cookie", cookie(request.scope, SESSION_COOKIE, token))
        return response

    def _forgotten(self, request: Request) -> Response:
        self._sessions.close(request.cookies.get(SESSION_COOKIE, ""))
        response = _to_page(request)
        response.headers.append("set-cookie", cookie(request.scope, SESSION_COOKIE, "", max_age_s=0))
        return response


def _to_page(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/", 303)


TEXTS = {
    "en": ("This page needs an API key.", "API key", "Go on", "This key is not good here."),
    "fr": ("Cette page demande une clé d’API.", "Clé d’API", "Continuer", "Cette clé n’est pas valable ici."),
    "de": ("Diese Seite braucht einen API-Schlüssel.", "API-Schlüssel", "Weiter", "Dieser Schlüssel gilt hier nicht."),
    "it": ("Questa pagina richiede una chiave API.", "Chiave API", "Continua", "Questa chiave non è valida qui."),
    "es": ("Esta página necesita una clave de API.", "Clave de API", "Continuar", "Esta clave no vale aquí."),
}


def language_of(accepted: str) -> str:
    """The first language of an Accept-Language header that the form is in; "en" where there is none."""
    wanted = [part.partition(";")[0].strip().lower()[:2] for part in accepted.split(",")]
    return next((language for language in wanted if language in TEXTS), "en")


def _form(request: Request, status: int, *, is_wrong: bool = False) -> Response:
    language = language_of(request.headers.get("accept-language", ""))
    needs, label, button, wrong = map(escape, TEXTS[language])
    action = escape(f"{request.scope.get('root_path', '')}{KEY_PATH}")
    note = f'<p class="wrong" role="alert">{wrong}</p>' if is_wrong else ""
    return HTMLResponse(
        FORM.format(language=language, needs=needs, label=label, button=button, action=action, note=note),
        status,
        {"cache-control": "no-store"},
    )


FORM = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Octuor</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }}
body {{ min-height: 90vh; margin: 0; display: grid; place-content: center; padding: 1rem; }}
form {{ display: grid; gap: .75rem; width: min(24rem, 90vw); }}
h1 {{ font-size: 1.4rem; margin: 0; }} p {{ margin: 0; }}
label {{ display: grid; gap: .25rem; }}
input, button {{ font: inherit; padding: .6rem .75rem; border-radius: .5rem; border: 1px solid #8888; }}
button {{ background: #c2410c; color: #fff; border-color: transparent; cursor: pointer; }}
:focus-visible {{ outline: 3px solid #fb923c; outline-offset: 2px; }}
.wrong {{ color: #dc2626; }}
</style>
</head>
<body>
<form method="post" action="{action}">
<h1>Octuor</h1>
<p>{needs}</p>
{note}
<label>{label}
<input id="key" name="key" type="password" autocomplete="off" required autofocus></label>
<button id="give-key">{button}</button>
</form>
</body>
</html>
"""
