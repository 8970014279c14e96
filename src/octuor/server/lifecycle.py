"""From the port to the last answer: bind, load, serve, and after a signal drain and end.

The first SIGTERM or SIGINT makes the server unready at once; what runs may finish within a limit, then it is ended
with an error; exit status 0. A second signal ends the process where it stands: what was acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from octuor import __version__
from octuor.server import tracing
from octuor.server.logs import configure, fields
from octuor.server.protocol import guarded
from octuor.server.registry import AnswerEngine
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from octuor.server.sockets import bind, shown

SIGNALS = (signal.SIGTERM, signal.SIGINT)
END_S = 5  # for answers to end after their engine was stopped
POLL_S = 0.02
SPARE_FILES = 256  # file descriptors beside connections: weights, the database, libraries

logger = logging.getLogger(__name__)


def run_server(
    app: FastAPI,
    serving: Serving,
    settings: ServerSettings,
    prepare: Callable[[], None] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until a signal comes; the exit status.

    prepare   called in a thread of its own once the port is taken: loads models, starts engines, sets
              serving.registry. Until it returns, requests are answered with 503
    on_ready  called with the first address once requests are answered

    Engines are stopped and accounts closed at the end. Raises ConfigError where the port cannot be had or tracing is
    not installed, and what prepare raises.
    """
    configure(settings.log_format, settings.log_level)
    _allow_files(settings.limits.max_connections + SPARE_FILES)
    tracer = tracing.start() if settings.otel else None
    if tracer is not None:
        serving.listeners.insert(0, tracer.observe)
    app.openapi()  # FastAPI builds its routes when they are first asked for, which is not to be the first request
    sockets = bind(settings.host, settings.port)
    server = Server(app, serving, settings, prepare, None if on_ready is None else lambda: on_ready(shown(sockets[0])))
    for listener in sockets:
        logger.info("listening on %s", shown(listener), extra=fields(version=__version__, pid=os.getpid()))
    try:
        asyncio.run(server.serve(sockets))
    finally:
        for listener in sockets:
            listener.close()
        server.close()
        if tracer is not None:
            tracer.close()
    if server.error is not None:
        raise server.error
    logger.info("stopped")
    return 0


class Server(uvicorn.Server):
    """uvicorn's server with a slow end.

    error  what `prepare` raised
    """

    def __init__(
        self,
        app: FastAPI,
        serving: Serving,
        settings: ServerSettings,
        prepare: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        limits = settings.limits
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=guarded(limits, serving.finished),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(limits.keep_alive_s),
                timeout_graceful_shutdown=END_S,
            )
        )
        self.error: Exception | None = None
        self._serving = serving
        self._drain_timeout_s = settings.drain_timeout_s
        self._prepare = prepare
        self._on_ready = on_ready
        self._preparing: threading.Thread | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then load."""
        await super().startup(sockets)
        if self._prepare is None:
            self._say_ready()
        else:
            loop = asyncio.get_running_loop()
            self._preparing = threading.Thread(target=self._load, args=(loop,), name="octuor-load", daemon=True)
            self._preparing.start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours in place of uvicorn's, which repeats a signal at the end, so that no exit status is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self, number: int | None = None) -> None:
        """Begin to end; the second time, end. Called by the event loop.

        number  of the signal
        """
        name = signal.Signals(number).name if number else None
        if self._draining is not None:
            logger.warning("a second signal: ending at once", extra=fields(signal=name))
            _end_at_once(128 + (number or 0))
        self._draining = asyncio.ensure_future(self._drain(name))

    def close(self) -> None:
        """Stop the engines and write down what was used; the server has ended."""
        if self._preparing is not None and self._preparing.is_alive():
            _end_at_once(0)  # in the middle of loading there is nothing to lose, and no way to stop it
        for engine in self._engines():
            engine.stop()
        if self._serving.accounts is not None:
            self._serving.accounts.close()

    async def _drain(self, name: str | None) -> None:
        serving = self._serving
        serving.is_draining = True
        _tell_systemd("STOPPING=1")
        for engine in self._engines():
            engine.drain()
        logger.info(
            "draining: %d requests in progress",
            serving.in_progress,
            extra=fields(signal=name, timeout_s=self._drain_timeout_s),
        )
        if not await self._emptied(self._drain_timeout_s):
            logger.warning("ending %d requests that took too long", serving.in_progress)
            ended = asyncio.gather(*(asyncio.to_thread(engine.stop) for engine in self._engines()))
            if not await self._emptied(END_S):
                for connection in list(self.server_state.connections):
                    connection.transport.abort()  # whoever is left neither sends nor takes
            await ended
        self.should_exit = True

    async def _emptied(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._serving.in_progress and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return not self._serving.in_progress

    def _engines(self) -> list[AnswerEngine]:
        registry = self._serving.registry
        return [] if registry is None else [served.engine for served in registry.models]

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._prepare is not None
        began = time.perf_counter()
        try:
            self._prepare()
        except Exception as error:  # whatever it is, it ends the server and is raised there
            self.error = error
            loop.call_soon_threadsafe(setattr, self, "should_exit", True)
        else:
            loop.call_soon_threadsafe(self._say_ready, time.perf_counter() - began)

    def _say_ready(self, seconds: float | None = None) -> None:
        models = [served.name for served in self._serving.registry.models] if self._serving.registry else []
        load_s = None if seconds is None else round(seconds, 3)
        logger.info("ready", extra=fields(models=",".join(models), load_s=load_s))
        _tell_systemd("READY=1")
        if self._on_ready is not None:
            self._on_ready()


def _end_at_once(status: int) -> None:
    """Without finalizers: threads in native code would be torn down under them."""
    logging.shutdown()
    os._exit(status)


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files, which is low on most systems, as far as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _tell_systemd(state: str) -> None:
    """sd_notify(3), where the unit has Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(state.encode("ascii"), name)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", state, error)
