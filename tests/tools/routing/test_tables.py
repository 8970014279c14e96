"""Tables are tidy, and say what was counted."""

from __future__ import annotations

import csv
import io
import json

import pytest

from octuor.routing.tally import Tally
from octuor.tools.routing.analysis import Analysis
from octuor.tools.routing.tables import as_json, experts_csv, overlap_name, repetition_csv, text_csv
from tools.routing.conftest import NASTY


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def tally_of(analysis: Analysis, name: str) -> Tally:
    return next(tally for tally in analysis.tallies if tally.name == name)


def test_experts(analysis: Analysis) -> None:
    found = rows(experts_csv(analysis, [1]))
    assert len(found) == 2 * 3 * 4  # domains, choices and any, experts
    for row in found:
        tally = tally_of(analysis, row["domain"])
        choice = {"any": None, "first": 0, "second": 1}[row["choice"]]
        assert float(row["share"]) == pytest.approx(tally.share(choice)[1, int(row["expert"])], abs=1e-6)
        assert float(row["uniform"]) == 0.25
    assert sum(int(row["tokens"]) for row in found if row["choice"] == "first") == sum(
        tally.n_tokens for tally in analysis.tallies
    )


def test_repetition(analysis: Analysis) -> None:
    found = rows(repetition_csv(analysis))
    assert len(found) == 2 * 2 * 2  # domains, choices, layers
    for row in found:
        tally, choices = tally_of(analysis, row["domain"]), 1 if row["choice"] == "first" else 2
        assert row["choice"] == overlap_name(choices)
        assert int(row["repeated"]) / int(row["pairs"]) == pytest.approx(float(row["share"]), abs=1e-6)
        assert float(row["random"]) == pytest.approx(tally.random_repetition(choices), abs=1e-6)


def test_texts(analysis: Analysis) -> None:
    found, routing = rows(text_csv(analysis)), analysis.blocks[0].routing
    assert len(found) == len(routing) * 2 * 2
    assert "".join(row["piece"] for row in found if (row["layer"], row["choice"]) == ("0", "first")) == NASTY
    assert found[0]["logprob"] == ""
    for row in found:
        at = int(row["token"]), int(row["layer"]), ("first", "second").index(row["choice"])
        assert int(row["expert"]) == routing.experts[at]
        assert float(row["weight"]) == pytest.approx(float(routing.weights[at]), abs=1e-6)


def test_json_has_all_figures(analysis: Analysis) -> None:
    found = json.loads(json.dumps(as_json(analysis, [1])))
    assert (found["model"], found["layers"], found["n_layers"], found["n_experts"]) == ("tiny", [1], 2, 4)
    assert found["random_repetition"]["first"] == 0.25
    for domain, tally in zip(found["domains"], analysis.tallies, strict=True):
        assert domain["tokens"] == tally.n_tokens
        assert domain["share"]["any"] == tally.share()[[1]].tolist()
        assert domain["repetition"]["first or second"] == tally.repetition(2).tolist()
    assert "".join(found["texts"][0]["pieces"]) == NASTY


def test_a_domain_of_one_token_has_no_rate(analysis: Analysis) -> None:
    empty = Tally("x", analysis.tallies[0].chosen * 0, analysis.tallies[0].repeated * 0)
    lonely = Analysis("m", analysis.config, (empty,), (), 0, 0.0)
    assert as_json(lonely, [0])["domains"][0]["repetition"]["first"] == [None, None]
    assert rows(repetition_csv(lonely))[0]["share"] == "nan"
