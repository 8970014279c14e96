"""How many prompt tokens may join a step, so that those who are answering do not wait long.

Chunked prefill beside decoding is Sarathi-Serve's (Agrawal et al. 2024, arXiv:2403.02310); the size of a chunk
follows from what steps were measured to take here: on one machine 16 tokens are half a second, on another 500 are
a hundredth.
"""

from __future__ import annotations

WHOLE_CHUNK = (
    512  # tokens: enough to meet each expert with a full tile; where nobody answers, or before any measurement
)
LEAST_CHUNK = 16
FIRST_CHUNK = 64  # beside those who answer, before a prompt token's cost is known
STRETCH = 1.0  # a step with prompt tokens may take this much longer, as a share of one without
FORGET = 0.2  # weight of the newest measurement


class Pace:
    """Measured costs of steps, and the chunk that follows from them.

    whole  tokens of a chunk at most
    least  and at least. A model that is read from disk as it runs wants whole ones: 16 tokens already meet nearly all
           experts, so smaller chunks would read all of them as often as there are chunks
    """

    def __init__(self, whole: int = WHOLE_CHUNK, least: int = LEAST_CHUNK) -> None:
        self._whole, self._least = whole, least
        self._decode_s: dict[int, float] = {}  # by sequences that answer, rounded up to a power of 2
        self._prompt_token_s: float | None = None

    def chunk(self, n_decoding: int, n_prompts: int) -> int:
        """Prompt tokens for the next step, where so many sequences answer and so many prompts are to be read.

        The more prompts wait on each answer, the longer the step may be.
        """
        if n_decoding == 0:
            return self._whole
        decode_s = self._decode_s.get(_class(n_decoding))
        if decode_s is None or self._prompt_token_s is None:
            return max(self._least, min(self._whole, FIRST_CHUNK))
        extra_s = STRETCH * max(1.0, n_prompts / n_decoding) * decode_s
        return max(self._least, min(self._whole, int(extra_s / self._prompt_token_s)))

    def measured(self, n_decoding: int, n_prompt_tokens: int, seconds: float) -> None:
        """Learn from a step."""
        if n_prompt_tokens == 0:
            kind = _class(n_decoding)
            self._decode_s[kind] = _blend(self._decode_s.get(kind), seconds)
            return
        decode_s = self._decode_s.get(_class(n_decoding), 0.0) if n_decoding else 0.0
        cost = max(seconds - decode_s, 0.1 * seconds) / n_prompt_tokens
        if n_decoding or self._prompt_token_s is None:  # a whole chunk is cheaper a token than a small one
            self._prompt_token_s = _blend(self._prompt_token_s, cost)


def _class(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _blend(before: float | None, now: float) -> float:
    return now if before is None else before + FORGET * (now - before)
