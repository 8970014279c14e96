"""The engine: requests in, events out, one step at a time. A step is schedule, run, postprocess.

One thread owns the scheduler, the cache and every sequence; callers submit and cancel from theirs. A request that
fails takes nobody with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from octuor.api import Model
from octuor.cache import KVCache
from octuor.engine.answer import Answer
from octuor.engine.job import Deliver, EngineJob
from octuor.engine.pace import Pace
from octuor.engine.request import Event, Failed, Finish, Pooled, Prefilled, Request, Step
from octuor.engine.room import cache_room, token_bytes
from octuor.engine.runner import Result, Runner
from octuor.engine.scheduler import Scheduler, Work
from octuor.engine.sequence import Sequence
from octuor.errors import EngineError, OctuorError, OverloadError, RequestError
from octuor.experts.store import StoreStats
from octuor.generate import check_ids
from octuor.routing.trace import check_has_router

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """Limits of one engine.

    max_batch     choices that are computed at once
    max_queue     requests that may wait beside them; more are refused
    cache_tokens  positions of keys and values in all; None: what memory allows (room.py)
    cache_dtype   "f16" or "f32"
    """

    max_batch: int = 32
    max_queue: int = 256
    cache_tokens: int | None = None
    cache_dtype: str = "f16"


@dataclass(frozen=True)
class StepReport:
    """One step: how many sequences answered, prompt tokens read; seconds in all, in the forward pass, and choosing."""

    n_decoding: int
    n_prompt_tokens: int
    seconds: float
    forward_s: float
    choose_s: float


@dataclass(frozen=True)
class EngineStats:
    """Counts now (running, waiting, pages) and since the start (all others).

    pages_held   of running requests
    pages_used   of theirs and of remembered beginnings
    pages_known  of beginnings, whoever else holds them
    page_bytes   of keys and values in a page
    store        of experts, under a limit of memory
    """

    running: int
    waiting: int
    pages: int
    pages_held: int
    pages_used: int
    pages_known: int
    steps: int
    preemptions: int
    prefix_tokens: int
    prefix_tokens_cached: int
    prompt_tokens: int
    completion_tokens: int
    forward_s: float
    choose_s: float
    overhead_s: float
    page_bytes: int = 0
    store: StoreStats | None = None


class Engine:
    """Answers many requests at once on one model.

    on_step  called after each step, from the engine's thread
    """

    def __init__(
        self,
        model: Model,
        settings: EngineSettings | None = None,
        *,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings = EngineSettings() if settings is None else settings
        n_tokens = settings.cache_tokens or cache_room(model, settings.max_batch, settings.cache_dtype)
        self._cache = KVCache(model.config, model.ops.zeros, n_tokens, dtype=settings.cache_dtype)
        self.n_context = min(model.context, n_tokens)
        self._pace = Pace(model.chunk, model.chunk) if model.is_streamed else Pace(model.chunk)
        self._scheduler = Scheduler(
            self._cache, settings.max_batch, self._pace.chunk, reuses_prefixes=model.config.sliding_window is None
        )
        self._runner = Runner(model, self._cache)
        self._on_step = on_step
        self._owner: dict[Sequence, EngineJob] = {}
        self._changed = threading.Condition()  # guards the four below
        self._arrived: deque[EngineJob] = deque()
        self._cancelled: deque[EngineJob] = deque()
        self._n_open = 0
        self._is_draining = self._is_stopping = False
        self._masks = ThreadPoolExecutor(1, thread_name_prefix="octuor-masks")
        self._thread: threading.Thread | None = None
        self._n_steps = self._n_prompt = self._n_completion = 0
        self._forward_s = self._choose_s = self._overhead_s = 0.0

    # ---- callers' threads ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="octuor-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the work; what is under way fails."""
        with self._changed:
            self._is_draining = self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._masks.shutdown()

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def drain(self) -> None:
        """Refuse new requests; those under way go on."""
        with self._changed:
            self._is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        with self._changed:
            return self._n_open == 0

    def submit(self, request: Request, deliver: Deliver) -> EngineJob:
        """Take a request; `deliver` is called with its events from the engine's thread, must be quick and never raise.

        Raises RequestError where it cannot be answered as it is, OverloadError where the queue is full or the
        engine is about to stop.
        """
        self._check(request)
        job = EngineJob(request, deliver, self._cancel)
        n_room = self.n_context - job.prompt_tokens
        limit = n_room if request.params.max_tokens is None else min(n_room, request.params.max_tokens)
        is_reader = request.pooled or request.prompt_logprobs is not None
        stem = Sequence(
            request.tenant, list(request.prompt.ids), request.prompt.spoken,
            n_choices=request.n, is_reader=is_reader, is_recorded=request.routes,
        )  # fmt: skip
        job.answers[stem] = Answer(self.model, request, 0, limit)
        with self._changed:
            if self._is_draining:
                raise OverloadError("the server is about to stop; ask another one, or this one later", is_draining=True)
            if self._n_open >= self.settings.max_queue + self.settings.max_batch:
                raise OverloadError(
                    f"the queue is full: expected at most {self.settings.max_queue} requests waiting; try again later"
                )
            name = self.model.adapter if request.adapter is None else request.adapter
            if name is not None:
                stem.adapter = job.adapter = self.model.adapters.acquire(name)
            self._n_open += 1
            self._arrived.append(job)
            self._changed.notify_all()
        return job

    def stats(self) -> EngineStats:
        """How things stand; from any thread, as of some moment of the present step."""
        scheduler, cache = self._scheduler, self._cache
        caches = [sequence.cache for sequence in list(scheduler.running)]
        held = {page for held in caches if held is not None for page in held.pages[held.n_released :]}
        return EngineStats(
            running=len(caches),
            waiting=max(0, len(scheduler.waiting) + len(self._arrived)),
            pages=cache.n_pages,
            pages_held=len(held),
            pages_used=cache.n_pages - cache.n_free_pages,
            pages_known=len(scheduler.prefixes),
            steps=self._n_steps,
            preemptions=scheduler.n_preemptions,
            prefix_tokens=scheduler.n_looked_up,
            prefix_tokens_cached=scheduler.n_found,
            prompt_tokens=self._n_prompt,
            completion_tokens=self._n_completion,
            forward_s=self._forward_s,
            choose_s=self._choose_s,
            overhead_s=self._overhead_s,
            page_bytes=cache.page_size * token_bytes(self.model, self.settings.cache_dtype),
            store=None if self.model.store is None else self.model.store.stats(),
        )

    def forget_prefixes(self) -> None:
        """Let go of every page that no request holds. Only while the engine is idle."""
        self._scheduler.prefixes.clear()

    def _check(self, request: Request) -> None:
        ids, params = request.prompt.ids, request.params
        check_ids(ids, self.model.config.vocab_size)
        if not len(ids):
            raise RequestError("prompt: expected at least one token, found none; begin with BOS")
        if len(ids) + (not request.pooled and params.max_tokens != 0) > self.n_context:
            raise RequestError(
                f"prompt: expected fewer tokens than the context of {self.n_context}, found {len(ids)}; shorten it"
            )
        if not 1 <= request.n <= self.settings.max_batch:
            raise RequestError(f"n: expected 1 to {self.settings.max_batch} choices, found {request.n}")
        if request.routes:
            check_has_router(self.model.config)
        if params.stop and self.model.checkpoint.tokenizer is None:
            raise RequestError("stop: expected a model with a tokenizer, found none; use stop_ids")
        if self.model.page_in is not None:
            self.model.page_in.wait(0)  # a disk that failed is said here

    def _cancel(self, job: EngineJob) -> None:
        with self._changed:
            self._cancelled.append(job)
            self._changed.notify_all()

    # ---- the engine's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._n_open or self._cancelled or self._is_stopping):
                    self._changed.wait()
                if self._is_stopping:
                    break
            self.step()
        self._take_in()
        for sequence in list(self._owner):
            self._fail(sequence, OverloadError("the server has stopped; ask again", is_draining=True))

    def step(self) -> None:
        """Take in what has arrived, then one pass over the model for whoever is next."""
        began = time.perf_counter()
        self._take_in()
        work = self._scheduler.schedule()
        if not work:
            return
        n_decoding = sum(part.sequence.is_decoding for part in work)
        for part in work:
            self._note_start(part, began)
        forward_began = time.perf_counter()
        try:
            results = self._runner.run(work)
        except Exception as error:  # nobody's result can be told from another's: all of them end, the engine does not
            log.exception("a step failed")
            for part in work:
                self._fail(part.sequence, EngineError(f"the forward pass failed: {error}"))
            return
        choose_began = time.perf_counter()
        for part, result in zip(work, results, strict=True):
            self._scheduler.computed(part)
            try:
                self._postprocess(part, result)
            except OctuorError as error:
                self._fail(part.sequence, error)
            except Exception as error:
                log.exception("choosing a token failed")
                self._fail(part.sequence, EngineError(f"choosing a token failed: {error}"))
        ended = time.perf_counter()
        n_prompt = sum(part.n_tokens for part in work) - n_decoding
        self._account(
            StepReport(n_decoding, n_prompt, ended - began, choose_began - forward_began, ended - choose_began)
        )

    def _take_in(self) -> None:
        with self._changed:
            arrived, cancelled = list(self._arrived), list(self._cancelled)
            self._arrived.clear()
            self._cancelled.clear()
        for job in arrived:
            for sequence in job.answers:
                self._owner[sequence] = job
                self._scheduler.waiting.push(sequence)
        for job in cancelled:
            for sequence in list(job.answers):
                self._end(sequence)

    def _note_start(self, part: Work, now: float) -> None:
        job, at = self._owner[part.sequence], part.runs[0].start
        if not job.started_at:
            job.started_at, job.cached_tokens = now, at
        answer = job.answers[part.sequence]
        if part.is_last and answer.limit:
            answer.prepare(self._masks)

    def _postprocess(self, part: Work, result: Result) -> None:
        sequence = part.sequence
        job = self._owner[sequence]
        if job.is_cancelled:
            return
        is_prompt, routes = not job.is_prefilled, result.routes
        if is_prompt:
            job.read(part, result)
        if not part.is_last:
            return
        speakers = [sequence]
        if is_prompt:
            job.is_prefilled = True
            job.tell(Prefilled(job.cached_tokens, tuple(job.prompt), job.routes))
            routes = None
            if job.request.pooled:
                self._end(sequence, Pooled(job.mean()))
                return
            for choice, other in enumerate(self._scheduler.fork(sequence), start=1):
                self._owner[other] = job
                job.answers[other] = Answer(self.model, job.request, choice, job.answers[sequence].limit)
                speakers.append(other)
        for speaker in speakers:
            answer = job.answers[speaker]
            if answer.limit:
                step = answer.choose(result.logits[-1], speaker, routes)
                job.completion_tokens += 1
                self._n_completion += 1
            else:
                step = Step(answer.choice, None, "", Finish("length"))
            job.first_token_at = job.first_token_at or time.perf_counter()
            if step.finish is None:
                job.tell(step)
            else:
                self._end(speaker, step)

    def _end(self, sequence: Sequence, last: Event | None = None) -> None:
        """Let go of a sequence; the job is over with its last one. last: told when all is in order."""
        job = self._owner.pop(sequence, None)
        if job is None:
            return
        self._scheduler.remove(sequence)
        del job.answers[sequence]
        if not job.answers:
            job.finished_at = time.perf_counter()
            if job.adapter is not None:
                self.model.adapters.release(job.adapter)
            with self._changed:
                self._n_open -= 1
        if last is not None:
            job.tell(last)

    def _fail(self, sequence: Sequence, error: OctuorError) -> None:
        """End the whole request that a sequence belongs to."""
        job = self._owner.get(sequence)
        if job is None:
            return
        *others, last = list(job.answers)
        for other in others:
            self._end(other)
        self._end(last, Failed(error))

    def _account(self, report: StepReport) -> None:
        self._pace.measured(report.n_decoding, report.n_prompt_tokens, report.seconds)
        self._n_steps += 1
        self._n_prompt += report.n_prompt_tokens
        self._forward_s += report.forward_s
        self._choose_s += report.choose_s
        self._overhead_s += report.seconds - report.forward_s - report.choose_s
        if self._on_step is not None:
            self._on_step(report)
