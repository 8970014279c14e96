"""A whole pass, to the last bit: logits do not depend on company, on how a prompt is cut, nor on how an answer came.

This is what lets a server answer alike whether it is idle or full, and keep a prefix for those who share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from octuor.batch import step
from octuor.cache import KVCache, SequenceCache
from octuor.quant import FORMATS
from octuor.weights import Weight
from test_model import MIXTURE, text
from toys import NATIVE, F32Array, Toy, leaves, make_backend, random_values

CONFIGS = {
    "mixture": replace(MIXTURE, dim=260, hidden_dim=270, n_layers=2, n_experts=3),  # two tiles of inputs
    "window": replace(MIXTURE, sliding_window=21),
}
KINDS = [(backend, name) for backend in NATIVE for name in ("f32", "bf16", "q4")]
PROMPT, ANSWER = 61, 9


@cache
def weights(config_name: str, format_name: str) -> dict[str, Weight]:
    """Made once for all instruction sets."""
    return leaves(random_values(CONFIGS[config_name], [8]), FORMATS[format_name])


@pytest.fixture(scope="module", params=CONFIGS)
def config_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def toy(request: pytest.FixtureRequest, config_name: str) -> Toy:
    backend, name = request.param
    return Toy(make_backend(backend), CONFIGS[config_name], weights(config_name, name))


class Company:
    """Other sequences in the same cache: in every call some decode, some are prompts, some have nothing."""

    def __init__(self, toy: Toy, cache: KVCache, n: int) -> None:
        self.toy, self.cache, self.others = toy, cache, [cache.new() for _ in range(n)]
        self.rng = np.random.default_rng(8)

    def extend(self, sequence: SequenceCache, pieces: Sequence[Sequence[int]]) -> F32Array:
        """Logits of `sequence`'s next tokens, in one entry a piece, somewhere between the others'."""
        beside = [(other, text(self.toy.config, int(n))) for other, n in zip(self.others, self.sizes(), strict=True)]
        place = int(self.rng.integers(len(beside) + 1))
        work = [*beside[:place], *((sequence, piece) for piece in pieces), *beside[place:]]
        batch = step(self.cache, work)
        return self.toy.logits(batch)[batch.starts[place] : batch.starts[place + len(pieces)]]

    def sizes(self) -> list[int]:
        return self.rng.choice([0, 1, 1, 1, 2, 5], len(self.others)).tolist()


@pytest.fixture(scope="module", params=["f16", "f32"])
def answered(request: pytest.FixtureRequest, toy: Toy) -> tuple[str, list[int], F32Array]:
    """The kind of cache, a prompt and its greedy answer, and the logits of a sequence that is alone."""
    dtype = str(request.param)
    pool = toy.cache(128, dtype=dtype)
    sequence, tokens = pool.new(), text(toy.config, PROMPT)
    found = [toy.extend(pool, sequence, tokens)]
    for _ in range(ANSWER):
        tokens.append(int(found[-1][-1].argmax()))
        found.append(toy.extend(pool, sequence, tokens[-1:]))
    return dtype, tokens, np.concatenate(found)


@pytest.mark.parametrize(("cuts", "n_others"), [([2, 4, 9], 31), ([17, 20], 0), ([30, 59], 6)], ids=str)
def test_a_prompt_cut_anywhere_and_its_answer_in_any_company(
    toy: Toy, answered: tuple[str, list[int], F32Array], cuts: list[int], n_others: int
) -> None:
    dtype, tokens, expected = answered
    pool = toy.cache(1 << 12, dtype=dtype)
    company, sequence = Company(toy, pool, n_others), pool.new()
    found = [company.extend(sequence, [tokens[a:b]]) for a, b in pairwise([0, *cuts, PROMPT])]
    found += [company.extend(sequence, [[token]]) for token in tokens[PROMPT:]]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_an_answer_computed_again_in_one_call(toy: Toy, answered: tuple[str, list[int], F32Array]) -> None:
    """As when a sequence that had to give up its pages comes back: the prompt whole, each answered token an entry."""
    dtype, tokens, expected = answered
    pool = toy.cache(1 << 12, dtype=dtype)
    singles = [[token] for token in tokens[PROMPT:]]
    for first in (pool.new(), pool.new()):
        found = Company(toy, pool, 5).extend(first, [tokens[:PROMPT], *singles])
        np.testing.assert_array_equal(found, expected)
    sequence = pool.new()
    toy.extend(pool, sequence, tokens[:PROMPT])
    np.testing.assert_array_equal(Company(toy, pool, 5).extend(sequence, singles), expected[PROMPT:])


def test_a_prefix_that_another_sequence_has_computed(toy: Toy, answered: tuple[str, list[int], F32Array]) -> None:
    dtype, tokens, expected = answered
    for shared in (24, 31, PROMPT + 3):
        pool = toy.cache(1 << 12, dtype=dtype)
        company, first = Company(toy, pool, 3), pool.new()
        company.extend(first, [tokens[: min(shared, PROMPT)], *[[token] for token in tokens[PROMPT:shared]]])
        again = pool.fork(first)
        rest = [tokens[shared:PROMPT]] if shared < PROMPT else []
        rest += [[token] for token in tokens[max(shared, PROMPT) :]]
        np.testing.assert_array_equal(company.extend(again, rest), expected[shared:])
