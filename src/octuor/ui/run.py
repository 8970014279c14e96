"""The page before the server of this process, and alone before models at another address."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from octuor.accounts import open_accounts
from octuor.server.lifecycle import run_server
from octuor.server.run import Say, check_open
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from octuor.ui.backend import Backend
from octuor.ui.in_process import InProcess
from octuor.ui.mount import page_front


def own_page(serving: Serving) -> list[Middleware]:
    """For `octuor.server.run.serve`: the page over the models of this process. Raises BackendError without Gradio."""
    return page_front(serving, InProcess(serving))


def serve_page(backend: Backend, settings: ServerSettings, *, on_ready: Say, warn: Say) -> int:
    """Show the page until a signal ends it; the exit status. The keys of this machine guard it, where there are any.

    on_ready  called with the address
    warn      called with a line where strangers may ask without a key

    Raises ConfigError where an address cannot be had, or must not be without keys, and BackendError without Gradio.
    """
    accounts = open_accounts()
    try:
        check_open(settings, accounts, warn)
        serving = Serving(accounts=accounts, settings=settings)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, middleware=page_front(serving, backend))
        return run_server(app, serving, settings, on_ready=on_ready)
    finally:
        accounts.close()
