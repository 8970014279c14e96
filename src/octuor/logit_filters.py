"""What may be done to the logits of one position before a token is drawn: one pure function each.

    V = vocab_size, n = tokens still eligible

Each takes [V] or [n] float32 and returns a new array of the same shape, -inf where a token is out. The keep_*
ones keep at least one token, and settle ties in favour of the lowest index, so that results do not depend on
how an array was sorted. `octuor.sampling` composes them.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

MIN_TEMPERATURE = 1e-6  # below it logits / temperature would leave float32's range
_BLOCK = 256


def bias_logits(logits: FloatArray, ids: IntArray, biases: FloatArray) -> FloatArray:
    """Add biases[i] to the logit of ids[i]. ids must not repeat."""
    out = logits.copy()
    out[ids] += biases
    return out


def penalize_repetition(logits: FloatArray, ids: IntArray, penalty: float) -> FloatArray:
    """Make each token in ids less likely, once: divide positive logits by penalty, multiply negative ones.

    ids may repeat. Source: Keskar et al. 2019, arXiv:1909.05858, with the sign rule of transformers.
    """
    out = logits.copy()
    values = logits[ids]
    out[ids] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
    return out


def penalize_presence_and_frequency(
    logits: FloatArray, ids: IntArray, presence_penalty: float, frequency_penalty: float
) -> FloatArray:
    """Take presence_penalty + count * frequency_penalty from each token in ids (OpenAI's definition)."""
    out = logits.copy()
    unique, counts = np.unique(ids, return_counts=True)
    out[unique] -= np.float32(presence_penalty) + counts.astype(np.float32) * np.float32(frequency_penalty)
    return out


def forbid(logits: FloatArray, ids: IntArray) -> FloatArray:
    """Take the tokens in ids out."""
    out = logits.copy()
    out[ids] = -np.inf
    return out


def scale_temperature(logits: FloatArray, temperature: float) -> FloatArray:
    """Divide by temperature (at least MIN_TEMPERATURE), shifted so that the largest becomes 0."""
    out: FloatArray = logits - logits.max()
    out /= np.float32(max(temperature, MIN_TEMPERATURE))
    return out


def keep_top_k(logits: FloatArray, k: int) -> FloatArray:
    """Keep the k largest; of equal ones the lowest ids."""
    if k >= logits.size:
        return logits.copy()
    threshold = np.partition(logits, logits.size - k)[logits.size - k]
    return _keep_largest(logits, threshold, k)


def keep_top_p(logits: FloatArray, p: float) -> FloatArray:
    """Keep the fewest tokens, likeliest first, whose probabilities reach p; at least one.

    Of equal ones the lowest ids stay. Source: Holtzman et al. 2020, arXiv:1904.09751.
    """
    top = logits.max()
    total = float(np.exp(logits - top).sum(dtype=np.float64))
    # Tokens below (1 - p) / n of the mass hold less than 1 - p together, so none of them is needed: only the
    # others are sorted. Half of the bound leaves room for rounding.
    floor = 0.5 * (1.0 - p) * total / logits.size
    candidates = logits[logits >= top + np.float32(math.log(floor))] if floor > 0 else logits
    ordered = np.sort(candidates)[::-1]
    weights = np.exp(ordered - top)
    n_kept = 1 + find_mass(weights, min(1.0, p * total / float(weights.sum(dtype=np.float64))))
    return _keep_largest(logits, ordered[n_kept - 1], n_kept)


def keep_min_p(logits: FloatArray, p: float) -> FloatArray:
    """Keep tokens at least p times as likely as the likeliest. Source: Nguyen et al., arXiv:2407.01082."""
    threshold = logits.max() + np.float32(math.log(p))
    return np.where(logits >= threshold, logits, np.float32(-np.inf))


def keep_typical(logits: FloatArray, p: float) -> FloatArray:
    """Keep the fewest tokens, those of surprise nearest the entropy first, whose probabilities reach p.

    Source: Meister et al. 2022, arXiv:2202.00666.
    """
    logprobs = log_softmax(logits)
    probs = np.exp(logprobs)
    possible = probs > 0  # 0 * -inf is 0 in the entropy
    entropy = -np.sum(probs[possible] * logprobs[possible], dtype=np.float64)
    order = _stable_order(np.abs(-logprobs - np.float32(entropy)))
    n_kept = 1 + find_mass(probs[order], p)
    out = np.full_like(logits, -np.inf)
    out[order[:n_kept]] = logits[order[:n_kept]]
    return out


def log_softmax(logits: FloatArray) -> FloatArray:
    """Natural log-probabilities of logits, the sum accumulated in float64."""
    out: FloatArray = logits - logits.max()
    out -= np.float32(math.log(np.exp(out).sum(dtype=np.float64)))
    return out


def _keep_largest(logits: FloatArray, threshold: np.float32, n: int) -> FloatArray:
    """Keep all above threshold, which is the n-th largest, and of those equal to it the first that make n."""
    out = logits.copy()
    np.copyto(out, -np.inf, where=logits < threshold)
    n_above = int(np.count_nonzero(logits > threshold))
    out[np.flatnonzero(logits == threshold)[n - n_above :]] = -np.inf
    return out


def find_mass(weights: FloatArray, fraction: float) -> int:
    """The first index where the running sum of weights reaches fraction (0 to 1] of their sum.

    Sums blocks first and adds up one of them, in float64: a tenth of the time of a whole running sum. The
    weight at the index found is never 0.
    """
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)).astype(np.float64))
    target = fraction * blocks[-1]
    block = int(np.searchsorted(blocks, target))
    before = blocks[block - 1] if block else 0.0
    running = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK].astype(np.float64))
    # the two sums round differently: stay in the block, at its last weight that is not 0
    inside = min(int(np.searchsorted(running, target - before)), int(np.searchsorted(running, running[-1])))
    return block * _BLOCK + inside


def _stable_order(values: FloatArray) -> IntArray:
    """argsort of values >= 0, lowest index first among equals; a seventh of the time of kind="stable"."""
    # floats that are not negative order as their bits do, and the index in the low half settles ties
    keys = values.view(np.uint32).astype(np.uint64) << np.uint64(32) | np.arange(values.size, dtype=np.uint64)
    return (np.sort(keys) & np.uint64(0xFFFFFFFF)).astype(np.int64)
