"""What `octuor serve` does: accounts, whether strangers may ask, and the server over models that load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from starlette.middleware import Middleware

from octuor.accounts import Accounts, open_accounts
from octuor.checkpoint.memory import OnLoad
from octuor.errors import ConfigError
from octuor.server.app import create_app
from octuor.server.lifecycle import run_server
from octuor.server.loading import load_registry
from octuor.server.serving import Serving
from octuor.server.settings import Config, ServerSettings
from octuor.server.sockets import is_loopback

Say = Callable[[str], None]
Front = Callable[[Serving], Sequence[Middleware]]

# Seconds after which a thread that computes in Python lets others go on. The engine asks for the interpreter after each
# of some hundred kernels a step: beside a thread that parses a large body, a step of the pocket model takes 29 ms with
# Python's own 5 ms, and 9 ms with this; alone it takes 2.4.
SWITCH_S = 1e-4


def serve(
    config: Config, *, on_load: OnLoad | None = None, on_ready: Say, warn: Say, front: Front | None = None
) -> int:
    """Serve until a signal ends it; the exit status.

    The address answers at once, with 503 while models load.

    on_load   as in octuor.load
    on_ready  called with the address once requests are answered
    warn      called with a line where strangers may ask without a key
    front     makes layers before all others, as create_app's

    Raises what loading does, ConfigError where an address cannot be had, or must not be without keys.
    """
    sys.setswitchinterval(SWITCH_S)
    accounts = open_accounts()
    try:
        check_open(config.server, accounts, warn)
        serving = Serving(accounts=accounts, settings=config.server)

        def prepare() -> None:
            serving.registry = load_registry(config, on_load, serving.metrics.steps)

        app = create_app(serving, front=front(serving) if front else ())
        return run_server(app, serving, config.server, prepare, on_ready)
    finally:
        accounts.close()


def check_open(settings: ServerSettings, accounts: Accounts, warn: Say) -> None:
    """Raise ConfigError where strangers could ask without a key and nobody allowed it; warn where somebody did."""
    if accounts.has_keys() or is_loopback(settings.host):
        return
    if not settings.allow_no_keys:
        raise ConfigError(
            f"host: expected a loopback address such as 127.0.0.1 while there are no keys, found {settings.host}; "
            "make a key with `octuor keys create NAME`, or allow anybody with --allow-no-keys"
        )
    warn(f"anybody who reaches {settings.host} may use this server; `octuor keys create NAME` makes a key")
