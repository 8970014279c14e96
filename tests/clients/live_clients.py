"""Programs that were written for other servers, each run by the client it was written with; `make test-clients`.

NAME_client.py is such a program: functions `test_*` that know no more than an address and a key. It is run by pytest in
an environment of its own, build/clients/NAME, with what requirements/NAME.txt says; one server answers all of them,
four at a time. Here each function is one test.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from serve_process import ServeProcess, octuor_at, serve_process

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"
CLIENTS = sorted(script.name.removesuffix("_client.py") for script in HERE.glob("*_client.py"))
SIDE_BY_SIDE = 4
ENDS_WITHIN_S = 300.0


@dataclass
class Outcome:
    """What became of one client's program.

    functions  name: what failed in it, once for each set of parameters
    output     what pytest printed, for a program that could not begin
    """

    functions: dict[str, list[str]] = field(default_factory=dict)
    output: str = ""


def functions_of(client: str) -> list[str]:
    """The names of its tests, without importing it: its imports are not here."""
    tree = ast.parse((HERE / f"{client}_client.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def python_of(client: str) -> str:
    """The interpreter that has the client; programs that need none run by this one."""
    if not (HERE / "requirements" / f"{client}.txt").exists():
        return sys.executable
    return str(ENVIRONMENTS / client / "bin" / "python")


def run(client: str, server: ServeProcess, folder: Path) -> Outcome:
    report = folder / f"{client}.xml"
    command: list[str | os.PathLike[str]] = [
        *(python_of(client), "-m", "pytest", HERE / f"{client}_client.py"),
        *("-q", "--tb=short", "-c", os.devnull, "--rootdir", folder, "--noconftest", "-p", "no:cacheprovider"),
        *("--import-mode=importlib", "--junitxml", report),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENDS_WITHIN_S,
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "NO_PROXY": "127.0.0.1",
            "OCTUOR_URL": server.url,
            "OCTUOR_KEY": server.key(client),
            "OCTUOR_LIMITED_KEY": server.key(f"{client}, limited", "--requests-per-minute", "1"),
        },
    )
    outcome = Outcome(output=done.stdout)
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        failures = outcome.functions.setdefault(case.get("name", "").partition("[")[0], [])
        failures += [f"{case.get('name')}\n{node.text}" for node in case if node.tag in ("failure", "error", "skipped")]
    return outcome


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    home = tmp_path_factory.mktemp("octuor")
    octuor_at(home, "keys", "create", "first")
    with serve_process(home) as server:
        yield server


@pytest.fixture(scope="session")
def outcomes(
    server: ServeProcess, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """The programs of the chosen tests, all started."""
    chosen = {item.callspec.params["client"] for item in request.session.items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {client: pool.submit(run, client, server, tmp_path_factory.mktemp(client)) for client in sorted(chosen)}


@pytest.mark.parametrize(
    ("client", "function"), [(client, function) for client in CLIENTS for function in functions_of(client)]
)
def test_client(client: str, function: str, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[client].result()
    if function not in outcome.functions:
        pytest.fail(outcome.output, pytrace=False)
    if outcome.functions[function]:
        pytest.fail("\n\n".join(outcome.functions[function]), pytrace=False)


def test_the_server_is_well_after_all_of_them(server: ServeProcess, outcomes: dict[str, Future[Outcome]]) -> None:
    for outcome in outcomes.values():
        outcome.result()
    key = server.key("last")
    assert server.gauge("num_requests_running", key) == 0
    assert server.gauge("num_requests_waiting", key) == 0
    used = json.loads(octuor_at(server.home, "keys", "usage", "--json"))["usage"]
    assert set(outcomes) <= {row["name"] for row in used}
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
