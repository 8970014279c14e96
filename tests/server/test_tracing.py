"""Spans of requests, as an exporter gets them."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from octuor.errors import BackendError
from octuor.server import tracing
from octuor.server.record import RequestRecord
from octuor.server.tracing import Tracer
from server.http_client import Client
from server.live_server import chat

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced(Client):
    """A client of a server whose spans are kept."""

    def __init__(self) -> None:
        super().__init__()
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.records: list[RequestRecord] = []
        self.serving.listeners[:0] = [Tracer(provider).observe]
        self.serving.listeners.append(self.records.append)

    def spans(self) -> dict[str, ReadableSpan]:
        """By name."""
        return {span.name: span for span in self._exporter.get_finished_spans()}


def test_a_request_is_a_span_in_its_callers_trace() -> None:
    client = Traced()
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1", "x-request-id": "r-1"}
    body = chat(temperature=0.5, top_p=0.9, max_tokens=7, seed=3, stream=True)
    client.post("/v1/chat/completions", body, headers=headers)
    spans = client.spans()
    span = spans["POST /v1/chat/completions"]
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.context.trace_state.get("vendor") == "1"
    found = dict(span.attributes or {})
    assert 0 <= float(str(found.pop("gen_ai.response.time_to_first_chunk"))) < 60
    assert found == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "octuor.request_id": "r-1",
        "octuor.key": "local",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "octuor",
        "gen_ai.request.model": "pocket",
        "gen_ai.response.model": "pocket",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 2,
    }
    assert span.start_time is not None
    times = []
    for name in ("queue", "prefill", "decode"):
        part = spans[name]
        assert part.parent is not None
        assert part.parent.span_id == span.context.span_id
        times += [part.start_time or 0, part.end_time or 0]
    assert times == sorted(times)
    assert span.start_time <= times[0]
    assert times[-1] <= (span.end_time or 0)


def test_prompts_and_answers_are_no_part_of_spans() -> None:
    client = Traced()
    client.post("/v1/chat/completions", chat("my own words"))
    assert not any("my own words" in span.to_json() or "Hi there" in span.to_json() for span in client.spans().values())


def test_a_request_without_a_parent_begins_a_trace_which_the_log_can_name() -> None:
    client = Traced()
    client.get("/v1/models")
    span = client.spans()["GET /v1/models"]
    assert span.parent is None
    assert client.records[0].trace is not None
    assert client.records[0].trace.trace_id == f"{span.context.trace_id:032x}"
    assert not any(name.startswith("gen_ai") for name in span.attributes or {})


def test_what_the_caller_does_not_sample_is_not_sent() -> None:
    client = Traced()
    client.get("/v1/models", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert not client.spans()


def test_errors_of_ours_are_errors_and_those_of_callers_are_not() -> None:
    client = Traced()
    client.serving.registry = None
    client.get("/v1/models")
    span = client.spans()["GET /v1/models"]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "loading"
    client.get("/nowhere")
    assert client.spans()["GET"].status.status_code is StatusCode.UNSET


def test_probes_have_no_spans() -> None:
    client = Traced()
    client.get("/health")
    client.get("/metrics")
    assert not client.spans()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BackendError, match=r"pip install 'octuor\[otel\]'"):
        tracing.start()


def test_spans_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        tracer = tracing.start()
        tracer.observe(RequestRecord("r-1", "GET", "/v1/models", "/v1/models", status=200))
        tracer.close()
        collector.shutdown()
        thread.join()
    [(path, body)] = got
    assert path == "/v1/traces"
    assert b"GET /v1/models" in body
    assert b"octuor" in body
    assert b"deployment.environment" in body
