"""The process: listen, load, answer, end."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, cast

import uvicorn

from octuor.accounts import Accounts, open_accounts
from octuor.checkpoint.memory import OnLoad
from octuor.errors import ConfigError
from octuor.server.app import create_app
from octuor.server.loading import Loaded, is_loopback, load_models
from octuor.server.serving import Serving
from octuor.server.settings import Config, ServerSettings

Say = Callable[[str], None]
T = TypeVar("T")


def serve(config: Config, *, on_load: OnLoad | None = None, on_ready: Say, warn: Say) -> None:
    """Serve until a signal ends it.

    The address answers at once, with 503 while models load.

    on_ready  called with the address once requests are answered
    warn      called with a line about keys where strangers may ask

    Raises what loading does, ConfigError where an address cannot be had or must not be without keys.
    """
    with open_accounts() as accounts:
        check_open(config.server, accounts, warn)
        listener = bind(config.server)
        with listener:
            asyncio.run(_serve(config, accounts, listener, on_load, on_ready))


async def _serve(
    config: Config, accounts: Accounts, listener: socket.socket, on_load: OnLoad | None, on_ready: Say
) -> None:
    serving = Serving(accounts=accounts, settings=config.server)
    server = Server(
        uvicorn.Config(
            create_app(serving),
            loop="asyncio",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
    )
    loading = _in_thread(lambda: load_models(config, on_load))

    def loaded(future: asyncio.Future[Loaded]) -> None:
        if future.cancelled() or future.exception() is not None:
            server.should_exit = True
            return
        serving.registry = future.result().registry
        on_ready(address_of(listener))

    loading.add_done_callback(loaded)
    await server.serve(sockets=[listener])
    if loading.done():
        await asyncio.to_thread(loading.result().stop)


class Server(uvicorn.Server):
    """uvicorn's, but on SIGINT and SIGTERM it ends and lets its caller end, where uvicorn raises the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the two while it serves."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of work in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="octuor-loading", daemon=True).start()
    return future


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


def bind(settings: ServerSettings) -> socket.socket:
    """The listening socket. Raises ConfigError where the address cannot be had."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"host, port: cannot listen at {settings.host}:{settings.port} ({error.strerror or error}); "
            "is another server running there?"
        ) from error


def address_of(listener: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
