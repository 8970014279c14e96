"""One choice of one request, as the scheduler sees it: its tokens, and how far they are computed. No arrays.

How a token is computed decides its last bits. Tokens that follow each other in a prompt run *together*, two or more
in one pass over the keys; generated ones run *alone*. The kernels promise that the numbers depend on nothing else: not
on where a prompt is cut, nor on neighbours (docs/architecture.md). So a token is always computed the way it was the
first time (`batch.alone_in_prompt`, `batch.cut`), also after a pause or in the next turn of a chat, and an answer is
the same, bit by bit, whatever the cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

from octuor.batch import alone_in_prompt
from octuor.cache import SequenceCache
from octuor.engine.prefix import ROOT, page_key

if TYPE_CHECKING:
    from octuor.adapters import LoadedAdapter


class Sequence:
    """A prompt and the answer so far.

    tenant      whose it is
    prompt      token ids; the same list for all choices of a request
    answer      the ids chosen so far
    ids         both, one after the other
    alone       how each of ids is computed
    cache       what is computed of ids; None while it waits
    n_choices   choices that still begin with this prompt: they fork from this one once it is computed
    adapter     whose changes its tokens are computed with
    is_reader   every prompt token's own result is wanted, so none may be taken from earlier requests
    is_recorded routes are wanted: of every prompt token that is computed, then of each chosen token
    n_recorded  of the prompt, cached ones included, once it has run; a pause must leave no gap behind them
    node        of the last full page that the prefix index knows, its n_indexed-th
    """

    def __init__(
        self,
        tenant: str,
        prompt: list[int],
        spoken: Items[range],
        *,
        n_choices: int = 1,
        adapter: LoadedAdapter | None = None,
        is_reader: bool = False,
        is_recorded: bool = False,
    ) -> None:
        self.tenant = tenant
        self.prompt = prompt
        self.answer: list[int] = []
        self.ids = list(prompt)
        self.alone = alone_in_prompt(len(prompt), spoken)
        self.cache: SequenceCache | None = None
        self.n_choices = n_choices
        self.adapter = adapter
        self.is_reader = is_reader
        self.is_recorded = is_recorded
        self.n_recorded: int | None = None
        self.node = ROOT
        self.n_indexed = 0
        self._page_keys: list[bytes] = []

    @property
    def n_computed(self) -> int:
        """Tokens whose keys and values are there."""
        return 0 if self.cache is None else self.cache.length

    @property
    def n_pending(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.ids) - self.n_computed

    @property
    def is_decoding(self) -> bool:
        """Whether all but the token chosen last is computed."""
        return self.n_pending == 1 and bool(self.answer)

    def extend(self, token_id: int) -> None:
        """Take the token that was chosen."""
        self.ids.append(token_id)
        self.answer.append(token_id)
        self.alone.append(1)

    def page_keys(self, n: int, page_size: int) -> list[bytes]:
        """The prefix index's keys of its first n full pages."""
        for page in range(len(self._page_keys), n):
            part = slice(page * page_size, (page + 1) * page_size)
            owner = 0 if self.adapter is None else self.adapter.serial
            self._page_keys.append(page_key(self.ids[part], self.alone[part], owner))
        return self._page_keys[:n]

    def reusable(self, n_matched: int, page_size: int) -> int:
        """How many of n_matched known pages can be taken over: a token is left, and no single one of a run."""
        n = min(n_matched, (len(self.ids) - 1) // page_size)
        if self.n_recorded is not None and not self.answer:
            n = min(n, self.n_recorded // page_size)
        at = n * page_size
        is_last = at + 1 == len(self.ids) or (at < len(self.alone) and bool(self.alone[at + 1]))
        if n and not self.alone[at] and not self.alone[at - 1] and is_last:
            n -= 1
        return n

    def fork(self, cache: SequenceCache) -> Sequence:
        """Another choice of the same prompt, which is computed in `cache`."""
        other = Sequence(self.tenant, self.prompt, (), adapter=self.adapter, is_recorded=self.is_recorded)
        other.alone = self.alone[: len(self.prompt)]
        other.cache, other.node, other.n_indexed = cache, self.node, self.n_indexed
        return other
