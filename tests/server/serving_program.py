"""A server with the pocket model as a program of its own: `serving_program.py {settings as JSON}`.

"load_s" makes loading take so long. The exit status is the server's.
"""

from __future__ import annotations

import json
import sys
import threading

import octuor
from octuor.engine.engine import Engine, EngineSettings
from octuor.server.app import create_app
from octuor.server.lifecycle import run_server
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings


def main() -> int:
    """Serve until a signal comes."""
    wanted = json.loads(sys.argv[1])
    load_s = wanted.pop("load_s", 0)
    settings = ServerSettings(**{"port": 0, **wanted})
    serving = Serving(settings=settings)

    def prepare() -> None:
        threading.Event().wait(load_s)
        model = octuor.load()
        engine = Engine(model, EngineSettings(max_batch=4), on_step=serving.metrics.steps("pocket"))
        engine.start()
        serving.registry = Registry([Served("pocket", model, engine)])

    return run_server(create_app(serving), serving, settings, prepare)


if __name__ == "__main__":
    sys.exit(main())
