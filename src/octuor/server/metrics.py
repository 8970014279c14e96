"""What Prometheus reads: the engines' own counts at the time of the scrape, and what each request took, at its end.

Names end as vLLM's do, after another prefix (docs/operations.md has the table), so that its dashboards need one
replacement. Labels take few values: names of loaded models, patterns of paths, statuses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from octuor import __version__
from octuor.engine.engine import EngineStats, StepReport
from octuor.engine.request import Job
from octuor.experts.store import StoreStats
from octuor.server.record import RequestRecord

PREFIX = "octuor_"
OTHER = "other"  # the label of whatever a stranger can make up
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REASONS = {"stop": "stop", "length": "length", "cancelled": "abort"}  # ours, and vLLM's words for them

# Upper ends of the buckets. From a token of the pocket model to an hour in the queue of a slow machine.
WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)
GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 32768, 65536)
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Tally:
    """A histogram that takes many equal values at once. One thread adds; any may read, a value late at most."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Bounds as Prometheus writes them, each with the count up to it; and the sum."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        counts = accumulate(list(self._counts))
        return [(end, float(count)) for end, count in zip(ends, counts, strict=True)], self._sum


class StepTally:
    """What the steps of one engine were like; the engine's `on_step`.

    Every sequence that answers in a step gets its next token by it, so the step's time is its gap between tokens.
    """

    def __init__(self) -> None:
        self.gaps = Tally(GAPS_S)
        self.tokens = Tally(STEP_TOKENS)

    def __call__(self, report: StepReport) -> None:
        self.tokens.add(report.n_decoding + report.n_prompt_tokens)
        if report.n_decoding:
            self.gaps.add(report.seconds, report.n_decoding)


class Metrics:
    """All metrics of one server, in a registry of their own.

    stats  the engines' counts as they are now, by the model's name

    `in_progress` is for those who take requests in.
    """

    def __init__(self, stats: Callable[[], Mapping[str, EngineStats]]) -> None:
        self._registry = registry = CollectorRegistry()
        self._steps: dict[str, StepTally] = {}
        registry.register(EngineCollector(stats, self._steps))
        ProcessCollector(registry=registry)
        Info(f"{PREFIX}build", "The server's version.", registry=registry).info({"version": __version__})
        self._http = Counter(
            f"{PREFIX}http_requests_total",
            "HTTP requests answered, by the path's pattern; 499: the client left before it had an answer.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.in_progress = Gauge(
            f"{PREFIX}http_requests_in_progress", "HTTP requests being answered.", registry=registry
        )
        self._ended = Counter(
            f"{PREFIX}request_success_total",
            "Answers by how they ended; abort: the client left, error: the server broke off.",
            ["model_name", "finished_reason"],
            registry=registry,
        )
        self._first_token = self._histogram("time_to_first_token_seconds", "From arrival to the first token.", WAITS_S)
        self._whole = self._histogram("e2e_request_latency_seconds", "From arrival to the last token.", WAITS_S)
        self._queue = self._histogram("request_queue_time_seconds", "From arrival to the first step.", WAITS_S)
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From the first step to the first token.", WAITS_S
        )
        self._decode = self._histogram("request_decode_time_seconds", "From the first token to the last.", WAITS_S)
        self._n_prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt, cached ones too.", TOKENS)
        self._n_answer = self._histogram("request_generation_tokens", "Tokens of all answers to a prompt.", TOKENS)

    def steps(self, model_name: str) -> StepTally:
        """The `on_step` of that model's engine."""
        return self._steps.setdefault(model_name, StepTally())

    def observe(self, record: RequestRecord) -> None:
        """Take in a request that is over."""
        method = record.method if record.method in METHODS else OTHER
        self._http.labels(method, record.route or OTHER, str(record.status)).inc()
        if not record.jobs:
            return
        is_whole = record.error is None and not record.is_client_gone
        ended = [REASONS[reason] for reason in record.finished]
        ended += ["stop" for job in record.jobs if job.request.pooled and is_whole]
        n_choices = sum(1 if job.request.pooled else job.request.n for job in record.jobs)
        ended += ["abort" if record.is_client_gone else "error"] * (n_choices - len(ended))
        for reason in ended:
            self._ended.labels(record.model, reason).inc()
        for job in record.jobs:
            self._observe_job(record.model, job, is_whole)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All of it as text in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _observe_job(self, model: str, job: Job, is_whole: bool) -> None:
        self._n_prompt.labels(model).observe(job.prompt_tokens)
        if job.started_at:
            self._queue.labels(model).observe(job.started_at - job.arrived_at)
        if job.first_token_at:
            self._first_token.labels(model).observe(job.first_token_at - job.arrived_at)
            self._prefill.labels(model).observe(job.first_token_at - job.started_at)
        if is_whole and job.finished_at:
            self._n_answer.labels(model).observe(job.completion_tokens)
            self._whole.labels(model).observe(job.finished_at - job.arrived_at)
            if job.first_token_at:
                self._decode.labels(model).observe(job.finished_at - job.first_token_at)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}{name}", what, ["model_name"], buckets=buckets, registry=self._registry)


class EngineCollector(Collector):
    """Reads the engines when it is asked, and not before: they keep the counts themselves."""

    def __init__(self, stats: Callable[[], Mapping[str, EngineStats]], steps: Mapping[str, StepTally]) -> None:
        self._stats = stats
        self._steps = steps

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        engines = self._stats()
        for name, what, value in GAUGES:
            gauge = GaugeMetricFamily(f"{PREFIX}{name}", what, labels=["model_name"])
            for model, stats in engines.items():
                gauge.add_metric([model], value(stats))
            yield gauge
        for name, what, value in COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}{name}", what, labels=["model_name"])
            for model, stats in engines.items():
                counter.add_metric([model], value(stats))
            yield counter
        seconds = CounterMetricFamily(
            f"{PREFIX}step_seconds", "Time of the engine's steps, by what it went to.", labels=["model_name", "part"]
        )
        for model, stats in engines.items():
            seconds.add_metric([model, "forward"], stats.forward_s)
            seconds.add_metric([model, "choose"], stats.choose_s)
            seconds.add_metric([model, "overhead"], stats.overhead_s)
        yield seconds
        yield from self._stores(engines)
        yield from self._tallies()

    def _stores(self, engines: Mapping[str, EngineStats]) -> Iterator[Metric]:
        """Of models under a limit of memory."""
        stores = {model: stats.store for model, stats in engines.items() if stats.store is not None}
        for name, what, value in STORE_COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}{name}", what, labels=["model_name"])
            for model, stats in stores.items():
                counter.add_metric([model], value(stats))
            yield counter
        held = GaugeMetricFamily(f"{PREFIX}experts_held", "Experts in memory.", labels=["model_name"])
        for model, stats in stores.items():
            held.add_metric([model], sum(stats.held))
        yield held

    def _tallies(self) -> Iterator[Metric]:
        gaps = HistogramMetricFamily(
            f"{PREFIX}inter_token_latency_seconds", "Between the tokens of an answer.", labels=["model_name"]
        )
        tokens = HistogramMetricFamily(
            f"{PREFIX}iteration_tokens_total", "Tokens in a step, of prompts and answers.", labels=["model_name"]
        )
        for model, steps in list(self._steps.items()):
            gaps.add_metric([model], *steps.gaps.buckets())
            tokens.add_metric([model], *steps.tokens.buckets())
        yield gaps
        yield tokens


Reading = tuple[str, str, Callable[[EngineStats], float]]

STORE_COUNTERS: tuple[tuple[str, str, Callable[[StoreStats], float]], ...] = (
    ("expert_hits", "Experts that a pass found in memory.", lambda stats: stats.hits),
    ("expert_misses", "Experts that a pass had to wait for.", lambda stats: stats.misses),
    ("expert_read_bytes", "Bytes of experts read from disk.", lambda stats: stats.read_bytes),
    ("expert_wait_seconds", "Time that passes waited for the disk.", lambda stats: stats.wait_s),
)

GAUGES: tuple[Reading, ...] = (
    ("num_requests_running", "Choices that are being computed.", lambda stats: stats.running),
    ("num_requests_waiting", "Requests that wait for a place.", lambda stats: stats.waiting),
    (
        "kv_cache_usage_perc",
        "Share of the cache that running requests hold, 0 to 1; what is only remembered counts as free.",
        lambda stats: stats.pages_held / stats.pages if stats.pages else 0.0,
    ),
    ("kv_cache_pages", "Pages of the cache, in all.", lambda stats: stats.pages),
    ("kv_cache_pages_used", "Pages that hold something, remembered beginnings too.", lambda stats: stats.pages_used),
)

COUNTERS: tuple[Reading, ...] = (
    ("prefix_cache_queries", "Prompt tokens that were looked up in the cache.", lambda stats: stats.prefix_tokens),
    ("prefix_cache_hits", "Prompt tokens that were found there.", lambda stats: stats.prefix_tokens_cached),
    (
        "num_preemptions",
        "Times that a running request had to wait again for want of pages.",
        lambda stats: stats.preemptions,
    ),
    (
        "prompt_tokens",
        "Prompt tokens read, those found in the cache and those computed again after a preemption too.",
        lambda stats: stats.prompt_tokens + stats.prefix_tokens_cached,
    ),
    ("generation_tokens", "Tokens of answers.", lambda stats: stats.completion_tokens),
    ("engine_steps", "Passes over the model.", lambda stats: stats.steps),
)
