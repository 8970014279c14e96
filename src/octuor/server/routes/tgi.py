"""TGI's generation: POST /generate and /generate_stream, POST / that is one or the other, GET /info.

Prompts are raw: the text carries its own "<s>", "[INST]" and "</s>" (tokenizer/raw.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from fastapi import Request as HttpRequest
from starlette.responses import Response

from octuor import __version__
from octuor.engine.request import Grammar, Job, Prefilled, Prompt, Request, Step, TokenInfo
from octuor.errors import GrammarError, RequestError, TokenizerError
from octuor.grammar import read_tgi_grammar
from octuor.sampling import SamplingParams
from octuor.server.answering import Caller, answering, caller_of
from octuor.server.connection import while_connected
from octuor.server.constraints import constraint
from octuor.server.errors import ApiError
from octuor.server.json_text import dumps
from octuor.server.prompts import encoded
from octuor.server.registry import Served
from octuor.server.route import ERRORS as V1_ERRORS
from octuor.server.route import keyed_router
from octuor.server.schemas.tgi import (
    DEFAULT_MAX_NEW_TOKENS,
    MAX_BEST_OF,
    MAX_STOP_SEQUENCES,
    CompatGenerateRequest,
    ErrorResponse,
    GenerateParameters,
    GenerateRequest,
    GenerateResponse,
    Info,
)
from octuor.server.serving import Serving, serving_of
from octuor.server.sse import EventStream, frame
from octuor.server.tgi_answer import TgiAnswer, prefill_tokens, whole_answer
from octuor.tokenizer.raw import RawPrompt, encode_raw

SPARE_TOKENS = 256  # before those that truncate keeps: a cut in the middle of a word changes the ids around it

CallerDependency = Annotated[Caller, Depends(caller_of)]

# TGI's own body, on the three routes of generation
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "No key, or a wrong one."},
    403: {"model": ErrorResponse, "description": "The key may not use this model."},
    413: {"model": ErrorResponse, "description": "A body beyond the limit."},
    415: {"model": ErrorResponse, "description": "A body that does not say it is JSON."},
    422: {"model": ErrorResponse, "description": "Whatever is wrong with the request."},
    429: {
        "model": ErrorResponse,
        "description": "A full queue, or a model that cannot answer now; Retry-After says when.",
    },
    500: {"model": ErrorResponse, "description": "A failure of the server."},
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": {"text/event-stream": {}}}}

router = keyed_router("TGI", errors=ERRORS)


@dataclass(frozen=True)
class Wish:
    """A request that has been found good.

    inputs       the prompt as it was written
    asked_at     time.perf_counter() seconds
    """

    caller: Caller
    served: Served
    request: Request
    parameters: GenerateParameters
    inputs: str
    asked_at: float

    def answers(self) -> list[TgiAnswer]:
        """An empty answer for each choice. Only the first can be drawn again by its seed alone."""
        seed = self.request.params.seed if self.parameters.is_sampling else None
        before = self.inputs if self.parameters.return_full_text else ""
        n_top = self.parameters.top_n_tokens or 0
        tokenizer = self.served.tokenizer
        return [
            TgiAnswer(tokenizer, seed=None if choice else seed, before=before, n_top=n_top)
            for choice in range(self.request.n)
        ]


@router.post("/", response_model=list[GenerateResponse], responses=EVENTS)
async def generate_or_stream(body: CompatGenerateRequest, http: HttpRequest, caller: CallerDependency) -> Response:
    """A list of one answer, or with "stream" the events of /generate_stream; the prompt comes before the text
    unless return_full_text is false."""
    parameters = body.parameters or GenerateParameters()
    if parameters.return_full_text is None:
        parameters = parameters.model_copy(update={"return_full_text": True})
    body = body.model_copy(update={"parameters": parameters})
    if body.stream:
        return await _stream(body, caller)
    return await _whole(body, http, caller, as_list=True)


@router.post("/generate", response_model=GenerateResponse)
async def generate(body: GenerateRequest, http: HttpRequest, caller: CallerDependency) -> Response:
    """Continue a prompt."""
    return await _whole(body, http, caller, as_list=False)


@router.post("/generate_stream", response_class=Response, responses=EVENTS)
async def generate_stream(body: GenerateRequest, caller: CallerDependency) -> Response:
    """Continue a prompt, token by token."""
    return await _stream(body, caller)


@router.get("/info", response_model=Info, responses=V1_ERRORS)
async def info(serving: Annotated[Serving, Depends(serving_of)]) -> Response:
    """The model and the limits of requests."""
    served = serving.models().default
    found: Info = {
        "model_id": served.name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": serving.settings.max_batch + serving.settings.max_queue,
        "max_best_of": MAX_BEST_OF,
        "max_stop_sequences": MAX_STOP_SEQUENCES,
        "max_input_tokens": served.n_context - 1,
        "max_total_tokens": served.n_context,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "octuor",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
    return Response(dumps(found), media_type="application/json")


async def _whole(body: GenerateRequest, http: HttpRequest, caller: Caller, *, as_list: bool) -> Response:
    wish = await _checked(body, caller, is_stream=False)
    answers = wish.answers()
    response, job = await while_connected(http.receive, _collect(wish, answers))
    n_tokens = sum(len(answer.tokens) for answer in answers)
    return Response(
        dumps([response] if as_list else response),
        headers=_timings(wish, job, n_tokens),
        media_type="application/json",
    )


async def _collect(wish: Wish, answers: list[TgiAnswer]) -> tuple[GenerateResponse, Job]:
    prompt: tuple[TokenInfo, ...] = ()
    async with answering(wish.caller, wish.served, [wish.request]) as events:
        async for _, event in events:
            if isinstance(event, Prefilled):
                prompt = event.prompt
            elif isinstance(event, Step):
                answers[event.choice].take(event)
    with_details = bool(wish.parameters.details or wish.parameters.decoder_input_details)
    prefill = prefill_tokens(wish.served.tokenizer, prompt)
    return whole_answer(answers, with_details=with_details, prefill=prefill), events.jobs[0]


async def _stream(body: GenerateRequest, caller: Caller) -> Response:
    wish = await _checked(body, caller, is_stream=True)
    stream = EventStream(_frames(wish), ping_s=caller.serving.settings.ping_s, as_tgi=True)
    stream.headers.update(_compute(wish))
    return stream


async def _frames(wish: Wish) -> AsyncGenerator[bytes, None]:
    (answer,) = wish.answers()
    async with answering(wish.caller, wish.served, [wish.request]) as events:
        async for _, event in events:
            if isinstance(event, Step):
                answer.take(event)
                if answer.finish_reason is None:
                    yield frame(answer.event())
    n_prompt = len(wish.request.prompt.ids)
    yield frame(answer.last_event(n_prompt, with_details=wish.parameters.details is True))


# ---- what may be asked ---------------------------------------------------------------------------


async def _checked(body: GenerateRequest, caller: Caller, *, is_stream: bool) -> Wish:
    """Find whatever is wrong before the first byte of the answer."""
    asked_at = time.perf_counter()
    served = caller.find(None)
    parameters = body.parameters or GenerateParameters()
    _check_together(parameters, is_stream=is_stream)
    try:
        prompt = await _prompt(served, body.inputs, parameters.truncate)
        max_tokens = _room(served.n_context, len(prompt.ids), parameters.max_new_tokens)
        params = _sampling(parameters, max_tokens)
        grammar = await _grammar(served, parameters)
    except (GrammarError, RequestError, TokenizerError) as error:
        raise _refused(str(error)) from error
    request = Request(
        prompt,
        params,
        n=parameters.best_of or 1,
        tenant=caller.key.id,
        grammar=grammar,
        prompt_logprobs=0 if parameters.decoder_input_details else None,
        name=caller.record.request_id,
    )
    return Wish(caller, served, request, parameters, body.inputs, asked_at)


def _check_together(parameters: GenerateParameters, *, is_stream: bool) -> None:
    """What fields forbid each other, in TGI's words."""
    best_of = parameters.best_of or 1
    if is_stream and best_of > 1:
        raise _refused("`best_of` != 1 is not supported when streaming tokens", "best_of")
    if is_stream and parameters.decoder_input_details:
        raise _refused(
            "`decoder_input_details` == true is not supported when streaming tokens", "decoder_input_details"
        )
    if best_of > 1 and not parameters.is_sampling:
        raise _refused("you must use sampling when `best_of` is > 1", "best_of")
    if best_of > 1 and parameters.seed is not None:
        raise _refused("`seed` must not be set when `best_of` > 1", "seed")


async def _prompt(served: Served, inputs: str, truncate: int | None) -> Prompt:
    n_context = served.n_context
    if not inputs:
        raise _refused("`inputs` cannot be empty", "inputs")
    if truncate is not None and truncate >= n_context:
        raise _refused(f"`truncate` must be strictly positive and less than {n_context}. Given: {truncate}", "truncate")
    n_least = -(-len(inputs) // served.longest_piece)
    if truncate is None and n_least > n_context:
        raise _too_long(n_context, f"at least {n_least}")  # without the seconds that megabytes take to encode
    if truncate is not None:  # nor those for what is cut away
        inputs = inputs[-(truncate + SPARE_TOKENS) * served.longest_piece :]
    prompt = await encoded(len(inputs), lambda: encode_raw(served.tokenizer, inputs))
    return _truncated(prompt, truncate)


def _truncated(prompt: RawPrompt, n_tokens: int | None) -> Prompt:
    """The last n_tokens of a prompt, as TGI has it: BOS goes first."""
    n_cut = 0 if n_tokens is None else max(0, len(prompt.ids) - n_tokens)
    spoken = [range(max(0, part.start - n_cut), part.stop - n_cut) for part in prompt.spoken if part.stop > n_cut]
    return Prompt(prompt.ids[n_cut:], tuple(spoken))


def _room(n_context: int, n_prompt: int, wanted: int | None) -> int:
    """Tokens that the answer may have."""
    if n_prompt >= n_context:
        raise _too_long(n_context, str(n_prompt))
    if wanted is None:
        return min(DEFAULT_MAX_NEW_TOKENS, n_context - n_prompt)
    if n_prompt + wanted > n_context:
        raise _refused(
            f"`inputs` tokens + `max_new_tokens` must be <= {n_context}. "
            f"Given: {n_prompt} `inputs` tokens and {wanted} `max_new_tokens`",
            "max_new_tokens",
        )
    return wanted


def _sampling(parameters: GenerateParameters, max_tokens: int) -> SamplingParams:
    seed = parameters.seed
    if parameters.is_sampling and seed is None:
        seed = secrets.randbits(53)  # drawn here, so that the answer can say it, to JavaScript too
    temperature = 1.0 if parameters.temperature is None else parameters.temperature
    return SamplingParams(
        temperature=temperature if parameters.is_sampling else 0.0,
        top_k=parameters.top_k or 0,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        typical_p=1.0 if parameters.typical_p is None else parameters.typical_p,
        repetition_penalty=1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        max_tokens=max_tokens,
        seed=seed,
        stop=tuple(parameters.stop or ()),
        logprobs=parameters.top_n_tokens or 0,
    )


async def _grammar(served: Served, parameters: GenerateParameters) -> Grammar | None:
    if parameters.grammar is None:
        return None
    return await constraint(served, read_tgi_grammar(parameters.grammar.model_dump()), is_chat=False)


def _refused(text: str, param: str | None = None) -> ApiError:
    return ApiError(422, f"Input validation error: {text}", param=param)


def _too_long(n_context: int, given: str) -> ApiError:
    return _refused(f"`inputs` must have less than {n_context} tokens. Given: {given}", "inputs")


# ---- what is told of it --------------------------------------------------------------------------


def _compute(wish: Wish) -> dict[str, str]:
    return {"x-compute-type": "cpu", "x-compute-characters": str(len(wish.inputs))}


def _timings(wish: Wish, job: Job, n_tokens: int) -> dict[str, str]:
    """TGI's headers: seconds in x-compute-time, milliseconds in the others."""
    now = time.perf_counter()
    inference_s = now - job.started_at
    seconds = {
        "total": now - wish.asked_at,
        "validation": job.arrived_at - wish.asked_at,
        "queue": job.started_at - job.arrived_at,
        "inference": inference_s,
    }
    return {
        **_compute(wish),
        "x-compute-time": f"{seconds['total']:.6f}",
        **{f"x-{name}-time": f"{1000 * value:.0f}" for name, value in seconds.items()},
        "x-time-per-token": f"{1000 * inference_s / n_tokens:.0f}",
        "x-prompt-tokens": str(job.prompt_tokens),
        "x-generated-tokens": str(n_tokens),
    }
