"""What Prometheus reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from octuor.engine.engine import Engine, EngineSettings, StepReport
from octuor.engine.request import Event, Failed, Prefilled, Request, Step, TokenInfo
from octuor.errors import EngineError
from octuor.server.metrics import STEP_TOKENS, Metrics, StepTally, Tally
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from server.fake_engine import FakeEngine, plays
from server.http_client import Client, pocket
from server.live_server import chat, live_server, raw_post, until

# As HTTP.md's clients and vLLM's dashboards know them, with our prefix.
EXPECTED = {
    "octuor_num_requests_running": "gauge",
    "octuor_num_requests_waiting": "gauge",
    "octuor_kv_cache_usage_perc": "gauge",
    "octuor_prefix_cache_queries": "counter",
    "octuor_prefix_cache_hits": "counter",
    "octuor_num_preemptions": "counter",
    "octuor_prompt_tokens": "counter",
    "octuor_generation_tokens": "counter",
    "octuor_request_success": "counter",
    "octuor_http_requests": "counter",
    "octuor_time_to_first_token_seconds": "histogram",
    "octuor_inter_token_latency_seconds": "histogram",
    "octuor_e2e_request_latency_seconds": "histogram",
    "octuor_request_queue_time_seconds": "histogram",
    "octuor_request_prefill_time_seconds": "histogram",
    "octuor_request_decode_time_seconds": "histogram",
    "octuor_request_prompt_tokens": "histogram",
    "octuor_request_generation_tokens": "histogram",
    "octuor_iteration_tokens_total": "histogram",
}


Parser = Callable[[str], Iterable[Metric]]


def families(text: str, parse: Parser = text_string_to_metric_families) -> Iterable[Metric]:
    """What a scrape finds."""
    return parse(text)


def read(client: Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(client.get("/metrics").text)
        for sample in family.samples
    }


def value(client: Client, name: str, **labels: str) -> float:
    """One sample; 0 where there is none."""
    return read(client).get((name, frozenset(labels.items())), 0.0)


def test_every_name_is_there_with_its_type() -> None:
    client = Client()
    client.serving.metrics.steps("pocket")
    client.post("/v1/chat/completions", chat())
    found = {family.name: family.type for family in families(client.get("/metrics").text)}
    assert found.items() >= EXPECTED.items()


def test_the_text_is_openmetrics_where_that_is_asked_for() -> None:
    client = Client()
    client.post("/v1/chat/completions", chat())
    answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in families(answer.text, parse_openmetrics)} >= {"octuor_http_requests"}


def test_an_answer_is_counted_once_in_each() -> None:
    client = Client()
    client.post("/v1/chat/completions", chat(n=2))
    model = {"model_name": "pocket"}
    assert value(client, "octuor_request_success_total", finished_reason="stop", **model) == 2
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_decode_time"):
        assert value(client, f"octuor_{name}_seconds_count", **model) == 1
    assert value(client, "octuor_request_prompt_tokens_sum", **model) == 9
    assert value(client, "octuor_request_generation_tokens_sum", **model) == 4
    assert value(client, "octuor_kv_cache_usage_perc", **model) == 0.5
    route = {"method": "POST", "route": "/v1/chat/completions", "status": "200"}
    assert value(client, "octuor_http_requests_total", **route) == 1


def test_lengths_and_failures_have_their_reasons() -> None:
    def fails(request: Request) -> Iterator[Event]:  # noqa: ARG001
        yield Prefilled(0)
        yield Step(0, TokenInfo(1000), "Hi")
        yield Failed(EngineError("no"))

    with live_server(FakeEngine(fails)) as live:
        live.say(raw_post("/v1/chat/completions", chat(stream=True)))
        until(lambda: live.records, "the record")
        text = live.get("/metrics").text
    assert 'octuor_request_success_total{finished_reason="error",model_name="pocket"} 1.0' in text
    client = Client()
    client.post("/v1/chat/completions", chat(max_tokens=1))
    assert value(client, "octuor_request_success_total", finished_reason="length", model_name="pocket") == 1


def test_clients_that_leave_are_aborts() -> None:
    hold = threading.Event()
    with live_server(FakeEngine(plays(Prefilled(0), Step(0, TokenInfo(1000), "Hi"), hold))) as live:
        with live.connect() as connection:
            connection.sendall(raw_post("/v1/chat/completions", chat(stream=True)))
            assert connection.recv(65536)
        until(lambda: live.records, "the record")
        text = live.get("/metrics").text
        hold.set()
    assert 'octuor_request_success_total{finished_reason="abort",model_name="pocket"} 1.0' in text
    assert "octuor_request_generation_tokens_count" not in text


def test_strangers_cannot_make_labels() -> None:
    client = Client()
    for n in range(20):
        client.request(f"FETCH{n}", f"/nowhere/{n}")
        client.get(f"/v1/models/none-{n}")
        client.post("/v1/chat/completions", chat(model=f"none-{n}"))
    http = [labels for name, labels in read(client) if name == "octuor_http_requests_total"]
    assert {dict(labels)["method"] for labels in http} == {"other", "GET", "POST"}
    routes = {dict(labels)["route"] for labels in http}
    assert routes == {"other", "/v1/models/{model_id:path}", "/v1/chat/completions"}
    assert not any("none-" in str(labels) for _, labels in read(client))


def test_two_servers_share_nothing() -> None:
    one, two = Client(), Client()
    one.get("/v1/models")
    route = {"method": "GET", "route": "/v1/models", "status": "200"}
    assert value(one, "octuor_http_requests_total", **route) == 1
    assert value(two, "octuor_http_requests_total", **route) == 0


def test_a_real_engines_counts_and_steps() -> None:
    serving = Serving()
    model = pocket()
    with Engine(model, EngineSettings(max_batch=4), on_step=serving.metrics.steps("pocket")) as engine:
        serving.registry = Registry([Served("pocket", model, engine)])
        with live_server(engine, serving=serving) as live:
            for _ in range(2):
                assert live.post("/v1/chat/completions", chat(max_tokens=5, min_tokens=5)).status_code == 200
            until(lambda: engine.is_idle, "the engine to be idle")
            text = live.get("/metrics").text
    found = {
        sample.name: sample.value
        for family in families(text)
        for sample in family.samples
        if sample.labels == {"model_name": "pocket"}
    }
    assert found["octuor_generation_tokens_total"] == 10
    assert found["octuor_prompt_tokens_total"] == 18
    assert found["octuor_prefix_cache_queries_total"] == 18
    assert found["octuor_num_requests_running"] == found["octuor_num_requests_waiting"] == 0
    assert found["octuor_kv_cache_usage_perc"] == 0
    assert found["octuor_inter_token_latency_seconds_count"] == 8  # the first of five tokens has none before it
    assert found["octuor_iteration_tokens_total_count"] == found["octuor_engine_steps_total"]
    assert found["octuor_iteration_tokens_total_sum"] == 18 + 8


def test_no_model_yet() -> None:
    client = Client()
    client.serving.registry = None
    assert "octuor_num_requests_running{" not in client.get("/metrics").text


# ---- tallies --------------------------------------------------------------------------------------


def test_a_tally_counts_up_to_and_with_its_bounds() -> None:
    tally = Tally((1, 2, 4))
    for number, times in ((1, 3), (1.5, 2), (4, 1), (5, 1)):
        tally.add(number, times)
    assert tally.buckets() == ([("1.0", 3), ("2.0", 5), ("4.0", 6), ("+Inf", 7)], 3 + 3 + 4 + 5)


def test_steps_count_a_gap_for_each_that_answers() -> None:
    steps = StepTally()
    steps(StepReport(n_decoding=3, n_prompt_tokens=5, seconds=0.5, forward_s=0.4, choose_s=0.1))
    steps(StepReport(n_decoding=0, n_prompt_tokens=7, seconds=0.5, forward_s=0.4, choose_s=0.1))
    buckets, total = steps.gaps.buckets()
    assert (buckets[-1], total) == (("+Inf", 3), 1.5)
    buckets, total = steps.tokens.buckets()
    assert (buckets[-1], total) == (("+Inf", 2), 15)
    assert dict(buckets)["8.0"] == 2
    assert list(STEP_TOKENS) == sorted(STEP_TOKENS)


def test_statistics_are_read_when_they_are_asked_for() -> None:
    n_read = 0

    def stats() -> dict[str, object]:
        nonlocal n_read
        n_read += 1
        return {}

    metrics = Metrics(stats)  # type: ignore[arg-type]
    assert n_read == 0
    metrics.exposition("")
    assert n_read == 1


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain"])
def test_plain_text_is_what_everybody_else_gets(accept: str) -> None:
    assert Metrics(dict).exposition(accept)[1].startswith("text/plain; version=0.0.4")
