"""The files for operators name metrics, flags, paths and settings that exist."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from command_line import octuor
from octuor.server.limits import Limits
from octuor.server.metrics import Metrics
from octuor.server.settings import ServerSettings
from server.http_client import Client
from server.live_server import chat

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANUAL = (ROOT / "docs" / "operations.md").read_text()
NAME = re.compile(r"\b((?:octuor|process)_[a-z0-9_]+)\b")
GRID = 24  # columns of Grafana's


def exported() -> tuple[set[str], dict[str, set[str]]]:
    """Names of all samples that a server has after a request, and the labels of each."""
    client = Client()
    client.serving.metrics.steps("pocket")
    client.post("/v1/chat/completions", chat())
    names: set[str] = set()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            names.add(sample.name)
            labels.setdefault(sample.name, set()).update(sample.labels)
    return names, labels


EXPORTED, LABELS = exported()


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard but the rows."""
    found = json.loads((DEPLOY / "grafana" / "octuor.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """Every query of the dashboard, its variables' among them, and of the alerts."""
    board = json.loads((DEPLOY / "grafana" / "octuor.json").read_text())
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]
    alerts = (DEPLOY / "prometheus" / "octuor-alerts.yml").read_text()
    return [*asked, *re.findall(r"expr: (?:\|\n)?((?:.+\n)(?: {10,}.+\n)*)", alerts)]


@pytest.mark.parametrize("query", queries())
def test_queries_name_metrics_and_labels_that_are_exported(query: str) -> None:
    names = set(NAME.findall(re.sub(r'"[^"]*"', "", query)))
    assert names or query.startswith("up{")
    assert names <= EXPORTED
    for name, selector in re.findall(r"\b((?:octuor)_[a-z0-9_]+)\{([^}]*)\}", query):
        asked = set(re.findall(r"(\w+)\s*[=!]~?", selector)) - {"job", "instance"}  # those two are Prometheus's own
        assert asked <= LABELS[name], name


def test_panels_do_not_overlap_and_have_titles_units_and_reasons() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= GRID
    for one, two in combinations([panel["gridPos"] for panel in found], 2):
        is_apart = (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        )
        assert is_apart, (one, two)


def test_the_manual_names_every_metric_and_no_other() -> None:
    ends = ("_bucket", "_sum", "_count", "_created")
    families = {
        family.name: family for family in text_string_to_metric_families(Metrics(dict).exposition("")[0].decode())
    }
    histograms = {name for name in families if families[name].type == "histogram"}
    counters = {f"{name}_total" for name in families if families[name].type == "counter"}
    others = {name for name in families if families[name].type in ("gauge", "info")}
    ours = {name for name in histograms | counters | others if name.startswith("octuor_") and not name.endswith(ends)}
    table = MANUAL.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(octuor_[a-z0-9_]+)", table)) == ours


@pytest.mark.parametrize("settings", [Limits, ServerSettings])
def test_the_manual_names_every_setting(settings: type[Limits] | type[ServerSettings]) -> None:
    for setting in fields(settings):
        assert f"`{setting.name}`" in MANUAL or f"`[{setting.name}]`" in MANUAL, setting.name


@pytest.mark.parametrize(
    ("file", "line"),
    [("octuor.service", r"^ExecStart=(.*)$"), ("Containerfile", r"^ENTRYPOINT (\[.*\])$")],
)
def test_commands_have_the_flags_that_they_are_started_with(file: str, line: str) -> None:
    match = re.search(line, (DEPLOY / file).read_text(), re.MULTILINE)
    assert match is not None
    words = json.loads(match[1]) if match[1].startswith("[") else shlex.split(match[1])
    assert words[1] == "serve"
    shown = octuor("serve", "--help").out
    for word in words[2:]:
        assert not word.startswith("--") or word in shown


def test_nginx_waits_and_takes_as_much_as_the_server() -> None:
    text = (DEPLOY / "nginx.conf").read_text()

    def seconds(name: str) -> int:
        match = re.search(rf"\b{name} (\d+)s;", text)
        assert match is not None, name
        return int(match[1])

    size = re.search(r"client_max_body_size (\d+)m;", text)
    assert size is not None
    assert int(size[1]) * 1_000_000 > ServerSettings().max_body_bytes
    upstream = text.partition("upstream octuor {")[2].partition("}")[0]
    idle = re.search(r"keepalive_timeout (\d+)s;", upstream)
    assert idle is not None
    assert int(idle[1]) < Limits().keep_alive_s
    assert seconds("proxy_read_timeout") > ServerSettings().ping_s
    assert "proxy_buffering off;" in text
    assert "least_conn;" in text


def test_the_unit_waits_longer_than_the_drain() -> None:
    match = re.search(r"^TimeoutStopSec=(\d+)s$", (DEPLOY / "octuor.service").read_text(), re.MULTILINE)
    assert match is not None
    assert int(match[1]) > ServerSettings().drain_timeout_s
