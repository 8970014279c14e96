"""Spans for OpenTelemetry: one a request, in the caller's trace, with its wait, its prompt and its answer below.

Spans are made when a request is over, from the times in its record, so that nothing is in the way of an answer.
Attributes are those of the semantic conventions 1.37 for HTTP servers and generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/); prompts and answers are not among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from octuor import __version__
from octuor.engine.request import Job
from octuor.errors import BackendError
from octuor.server.middleware.paths import PROBES
from octuor.server.record import RequestRecord
from octuor.server.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

SERVICE = "octuor"
MAX_JOBS = 16  # prompts of one request whose parts get spans
FLUSH_MS = 5000
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
}


def start() -> Tracer:
    """A tracer that sends spans where the OTEL_EXPORTER_OTLP_ variables say, by HTTP.

    Raises BackendError where the packages are missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BackendError(
            f"tracing: expected OpenTelemetry's packages, found none ({error}); pip install 'octuor[otel]'"
        ) from error
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


class Tracer:
    """Makes the spans of requests that are over; `observe` listens to a Serving, before the log does."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE, __version__)

    def observe(self, record: RequestRecord) -> None:
        """Make the spans of a request; a record without a place in a trace gets that of its span."""
        from opentelemetry.trace import SpanKind, format_span_id, format_trace_id, set_span_in_context

        if record.path in PROBES:
            return
        at = _wall_clock()
        span = self._tracer.start_span(
            f"{record.method} {record.route}".strip(),
            context=_parent(record.trace),
            kind=SpanKind.SERVER,
            start_time=at(record.began_at),
            attributes=http_attributes(record) | generation_attributes(record),
        )
        inside = set_span_in_context(span)
        for job in record.jobs[:MAX_JOBS]:
            self._add_parts(job, inside, at)
        _set_status(span, record)
        span.end(at(record.ended_at))
        if record.trace is None:
            found = span.get_span_context()
            record.trace = TraceContext(
                format_trace_id(found.trace_id), format_span_id(found.span_id), found.trace_flags.sampled
            )

    def close(self) -> None:
        """Send what has not been sent, for some seconds at most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()

    def _add_parts(self, job: Job, inside: Context, at: Callable[[float], int]) -> None:
        marks = [job.arrived_at, job.started_at, job.first_token_at, job.finished_at]
        for name, began, ended in zip(("queue", "prefill", "decode"), marks, marks[1:], strict=False):
            if not began or not ended:
                break
            self._tracer.start_span(name, context=inside, start_time=at(began)).end(at(ended))


def http_attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    """What the conventions for HTTP servers ask for."""
    found: dict[str, AttributeValue] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "url.scheme": "http",
        "octuor.request_id": record.request_id,
    }
    optional = {"http.route": record.route, "client.address": record.client, "octuor.key": record.key}
    return found | {name: value for name, value in optional.items() if value}


def generation_attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    """What the conventions for generative AI ask for; {} of a request that reached no engine."""
    if not record.jobs:
        return {}
    request = record.jobs[0].request
    params = request.params
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": OPERATIONS.get(record.route, "generate_content"),
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": record.asked or record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
    }
    if request.pooled:
        return found
    found |= {
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.stream": record.is_stream,
        "gen_ai.response.finish_reasons": list(record.finished),
    }
    optional: dict[str, AttributeValue | None] = {
        "gen_ai.request.choice.count": request.n if request.n > 1 else None,
        "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.presence_penalty": params.presence_penalty or None,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.top_k": params.top_k or None,
        "gen_ai.response.time_to_first_chunk": record.first_token_s if record.is_stream else None,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def _parent(trace: TraceContext | None) -> Context | None:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

    if trace is None:
        return None
    context = SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([trace.state] if trace.state else []),
    )
    return set_span_in_context(NonRecordingSpan(context))


def _set_status(span: Span, record: RequestRecord) -> None:
    from opentelemetry.trace import Status, StatusCode

    error = record.error
    if error is not None and error.status_code >= 500:
        span.set_status(Status(StatusCode.ERROR, error.message))
        span.set_attribute("error.type", error.code or error.type)
    elif record.is_client_gone:
        span.set_attribute("error.type", "client_gone")


def _wall_clock() -> Callable[[float], int]:
    """From time.perf_counter() seconds to nanoseconds since 1970."""
    zero_ns = time.time_ns() - time.perf_counter_ns()
    return lambda seconds: zero_ns + int(seconds * 1e9)
