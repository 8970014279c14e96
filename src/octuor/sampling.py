"""From logits to the next token id: the parameters, and the sampler that `make_sampler` composes from them.

Knows neither batches nor text nor models. What is done to the logits, in this order (`octuor.logit_filters`):
logit_bias and penalties, min_tokens, temperature, top_k, top_p, min_p, typical_p, draw.
"""

import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np

from octuor.errors import CheckpointError, RequestError, ShapeError
from octuor.logit_filters import (
    BoolArray,
    FloatArray,
    IntArray,
    bias_logits,
    find_mass,
    forbid,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    log_softmax,
    penalize_presence_and_frequency,
    penalize_repetition,
    scale_temperature,
)

__all__ = ["Sample", "Sampler", "SamplingParams", "describe", "make_sampler"]


@dataclass(frozen=True)
class SamplingParams:
    """How one request chooses its tokens and when it ends. The defaults change nothing: plain sampling.

    temperature          0 is greedy (the lowest id wins a tie), 1 the model's own distribution
    top_k                keep the k likeliest tokens; 0 is off
    top_p                keep the likeliest tokens whose mass reaches top_p; 1 is off, 0 keeps one
    min_p                keep tokens at least min_p times as likely as the likeliest; 0 is off
    typical_p            locally typical sampling, Meister et al. 2022, arXiv:2202.00666; 1 is off
    repetition_penalty   Keskar et al. 2019, arXiv:1909.05858, over prompt and reply, 0.01 to 100;
                         1 is off
    presence_penalty     taken once from the logit of each token in the reply, -2 to 2
    frequency_penalty    taken for each time the token is in the reply, -2 to 2
    logit_bias           token id to what is added to its logit, -100 to 100
    min_tokens           tokens before EOS and stop_ids may be chosen
    max_tokens           None is up to the end of the context
    seed                 None draws a fresh one for each sampler
    stop                 strings that end the reply and are no part of it
    stop_ids             token ids that end the reply beside EOS
    logprobs             None for no log-probabilities, else how many alternatives beside the chosen token

    Raises RequestError naming the field.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("typical_p", self.typical_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_integer("top_k", self.top_k, 0)
        _check_integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 0)
            if self.min_tokens > self.max_tokens:
                raise RequestError(
                    f"min_tokens: expected at most max_tokens = {self.max_tokens}, got {self.min_tokens}; lower it"
                )
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0)

        if not isinstance(self.logit_bias, Mapping):
            raise RequestError(f"logit_bias: expected token ids with numbers, got {self.logit_bias!r}")
        for token_id, bias in self.logit_bias.items():
            _check_integer("logit_bias", token_id, 0)
            _check_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))  # a copy: the caller's may change

        if isinstance(self.stop, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise RequestError(f"stop: expected a tuple of non-empty strings, got {self.stop!r}; put them in a tuple")
        object.__setattr__(self, "stop", tuple(self.stop))
        for token_id in self.stop_ids:
            _check_integer("stop_ids", token_id, 0)
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))


@dataclass(frozen=True)
class Sample:
    """One chosen token.

    logprob   natural logarithm of its probability under the model's own logits: before bias, penalties,
              temperature and filters. None unless SamplingParams.logprobs asks for it
    top       the SamplingParams.logprobs likeliest tokens under the same logits, likeliest first, with theirs
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses tokens for one request; made by `make_sampler`.

    The random number of a step depends on the seed, the choice and len(generated_ids) alone: not on what else
    is in the batch, nor on earlier calls. Any step can be repeated, on any machine, from the same logits.
    """

    def __init__(self, params: SamplingParams, vocab_size: int, eos_id: int | None, choice: int = 0) -> None:
        self.params = params
        self.vocab_size = vocab_size
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._key = (self.seed % 2**64) + (choice << 64)
        self._bias_ids = np.array(list(params.logit_bias), dtype=np.int64)
        self._biases = np.array(list(params.logit_bias.values()), dtype=np.float32)
        ends = {*params.stop_ids} if eos_id is None else {eos_id, *params.stop_ids}
        self._end_ids = np.array(sorted(ends), dtype=np.int64)
        self._filters = _filters(params)
        self._prompt: tuple[Sequence[int] | None, IntArray] = (None, np.empty(0, dtype=np.int64))

    def __call__(
        self,
        logits: FloatArray,
        generated_ids: Sequence[int] = (),
        prompt_ids: Sequence[int] = (),
        *,
        allowed: BoolArray | None = None,
    ) -> Sample:
        """Choose the token that follows prompt_ids and generated_ids.

        logits    [V] float32 of the last position; not changed
        allowed   [V] bool, tokens that a grammar permits here; None permits all

        Raises ShapeError if logits or allowed are not [V]; CheckpointError if the logits hold NaN or +inf or
        are all -inf; RequestError if allowed permits no token.
        """
        if logits.shape != (self.vocab_size,) or logits.dtype != np.float32:
            raise ShapeError(
                f"logits: expected [{self.vocab_size}] float32, got {list(logits.shape)} {logits.dtype}; "
                "pass the last position's row"
            )
        _check_finite(logits)
        eligible = logits if allowed is None else self._allow(logits, allowed)
        eligible = self._adjust(eligible, generated_ids, prompt_ids)
        if self.params.temperature == 0:
            token_id = int(np.argmax(eligible))
        else:
            token_id = self._draw(eligible, len(generated_ids))
        n_top = self.params.logprobs
        return Sample(token_id) if n_top is None else describe(logits, token_id, n_top)

    def _allow(self, logits: FloatArray, allowed: BoolArray) -> FloatArray:
        if allowed.shape != logits.shape:
            raise ShapeError(f"allowed: expected [{self.vocab_size}] bool, got {list(allowed.shape)}; one per token")
        permitted = np.where(allowed, logits, np.float32(-np.inf))
        if permitted.max() == -np.inf:
            raise RequestError("allowed: expected at least one token, the grammar permits none; loosen the grammar")
        return permitted

    def _adjust(self, logits: FloatArray, generated_ids: Sequence[int], prompt_ids: Sequence[int]) -> FloatArray:
        """Bias, penalties and min_tokens; the same array where the parameters ask for none."""
        params = self.params
        if self._bias_ids.size:
            logits = bias_logits(logits, self._bias_ids, self._biases)
        if params.repetition_penalty != 1:
            seen = np.concatenate([self._prompt_array(prompt_ids), _id_array(generated_ids)])
            logits = penalize_repetition(logits, seen, params.repetition_penalty)
        if (params.presence_penalty or params.frequency_penalty) and len(generated_ids):
            ids = _id_array(generated_ids)
            logits = penalize_presence_and_frequency(logits, ids, params.presence_penalty, params.frequency_penalty)
        if len(generated_ids) < params.min_tokens:
            longer = forbid(logits, self._end_ids)
            if longer.max() > -np.inf:  # a finished grammar permits only the end
                logits = longer
        return logits

    def _draw(self, logits: FloatArray, step: int) -> int:
        logits = scale_temperature(logits, self.params.temperature)
        ids: IntArray | None = None
        for keep in self._filters:
            logits = keep(logits)
            kept = np.flatnonzero(logits > -np.inf)
            ids = kept if ids is None else ids[kept]
            logits = logits[kept]
        # Counter-based, so that a step needs no earlier one. Salmon et al. 2011, doi:10.1145/2063384.2063405.
        uniform_53_bits = int(np.random.Philox(key=self._key, counter=step).random_raw()) >> 11
        index = find_mass(np.exp(logits - logits.max()), (uniform_53_bits + 1) * 2.0**-53)
        return index if ids is None else int(ids[index])

    def _prompt_array(self, prompt_ids: Sequence[int]) -> IntArray:
        """Ids in the prompt, kept between calls: a list of 32k ids takes a millisecond to convert."""
        if self._prompt[0] is not prompt_ids:
            self._prompt = (prompt_ids, np.unique(_id_array(prompt_ids)))
        return self._prompt[1]


def describe(logits: FloatArray, token_id: int, n_top: int) -> Sample:
    """A token with its log-probability under logits [V], and the n_top likeliest with theirs."""
    logprobs = log_softmax(logits)
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        kept = np.flatnonzero(keep_top_k(logits, n_top) > -np.inf)
        likeliest = kept[np.argsort(-logits[kept], kind="stable")]
        top = tuple((int(i), float(logprobs[i])) for i in likeliest)
    return Sample(token_id, float(logprobs[token_id]), top)


def make_sampler(params: SamplingParams, vocab_size: int, eos_id: int | None, *, choice: int = 0) -> Sampler:
    """The sampler of one request.

    eos_id   None for a model without a tokenizer, which ends on stop_ids and max_tokens alone
    choice   which of several replies to one request (n > 1): each has its own random numbers under the seed

    Raises RequestError if logit_bias, stop_ids or logprobs go beyond vocab_size.
    """
    _check_ids("logit_bias", params.logit_bias, vocab_size)
    _check_ids("stop_ids", params.stop_ids, vocab_size)
    if params.logprobs is not None and params.logprobs > vocab_size:
        raise RequestError(f"logprobs: expected at most the {vocab_size} tokens there are, got {params.logprobs}")
    return Sampler(params, vocab_size, eos_id, choice)


def _filters(params: SamplingParams) -> list[Callable[[FloatArray], FloatArray]]:
    filters: list[Callable[[FloatArray], FloatArray]] = []
    if params.top_k:
        filters.append(lambda logits: keep_top_k(logits, params.top_k))
    if params.top_p < 1:
        filters.append(lambda logits: keep_top_p(logits, params.top_p))
    if params.min_p > 0:
        filters.append(lambda logits: keep_min_p(logits, params.min_p))
    if params.typical_p < 1:
        filters.append(lambda logits: keep_typical(logits, params.typical_p))
    return filters


def _id_array(ids: Sequence[int]) -> IntArray:
    return np.asarray(ids, dtype=np.int64)


def _check_finite(logits: FloatArray) -> None:
    """One pass over the logits: argmax finds a NaN as if it were the largest, and -inf only where all are."""
    token_id = int(np.argmax(logits))
    if not np.isfinite(logits[token_id]):
        raise CheckpointError(
            f"logits: expected finite numbers, found {logits[token_id]} at token {token_id}; "
            "the weights are damaged or their number format is too narrow: verify the checkpoint, "
            "then try a wider format"
        )


def _check_ids(name: str, ids: Collection[int], vocab_size: int) -> None:
    if ids and max(ids) >= vocab_size:
        raise RequestError(f"{name}: expected token ids below {vocab_size}, got {max(ids)}; use this model's tokenizer")


def _check_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    wanted = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number of at least {low:g}"
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not low <= number <= high or math.isinf(number):
        raise RequestError(f"{name}: expected {wanted}, got {value!r}")


def _check_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if isinstance(value, Integral) else low
    if not is_integer or number < low or (high is not None and number > high):
        raise RequestError(f"{name}: expected {wanted}, got {value!r}")
