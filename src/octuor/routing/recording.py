"""From forward passes to a Routing. T tokens of a pass, L layers, A experts a token, E experts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from octuor.errors import RequestError
from octuor.ops import Array, LayerRouting, Ops
from octuor.routing.values import Alternatives, Routing, TokenRoutes
from octuor.tokenizer import Detokenizer, Tokenizer

JOINED = 64
Top = tuple[tuple[int, float], ...]  # ids and log-probabilities, likeliest first


class PassLog:
    """The on_route of one forward pass: keeps what each layer tells, and gives it by token afterwards."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._layers: list[tuple[Array, Array]] = []  # experts and weights, [T, A] each

    def __call__(self, layer: int, routing: LayerRouting) -> None:  # noqa: ARG002 - layers come in order
        self._layers.append((routing.experts, routing.weights))

    def routes(self, rows: range) -> TokenRoutes:
        """Those of rows that follow each other, when the pass is over."""
        return PassRoutes(self._ops, self._layers, rows)


class PassRoutes(TokenRoutes):
    """Some rows of a pass, copied out of what its routers gave when somebody first looks at them.

    So that the step of an answer, half a millisecond with a small model, need not wait for it.
    """

    def __init__(self, ops: Ops, layers: Sequence[tuple[Array, Array]], rows: range) -> None:
        self.__dict__.update(_ops=ops, _layers=layers, _rows=rows)  # a frozen class

    def __len__(self) -> int:
        rows: range = self.__dict__["_rows"]
        return len(rows)

    @cached_property
    def experts(self) -> NDArray[np.int16]:  # type: ignore[override]
        """As in TokenRoutes."""
        return self._copied(0).astype(np.int16)

    @cached_property
    def weights(self) -> NDArray[np.float32]:  # type: ignore[override]
        """As in TokenRoutes."""
        return self._copied(1)

    def _copied(self, which: int) -> NDArray[np.float32]:
        """[T, A] of each layer -> [rows, L, A], contiguous."""
        ops, layers, rows = (self.__dict__[name] for name in ("_ops", "_layers", "_rows"))
        parts = [ops.to_numpy(layer[which])[rows.start : rows.stop] for layer in layers]
        joined = np.concatenate(parts).reshape(len(parts), *parts[0].shape)
        return np.ascontiguousarray(joined.transpose(1, 0, 2))


class Recording:
    """A Routing in the making: tokens as they are chosen, routes as they become known, a little later.

    Of the engine's events: add_token for each prompt token after the cached ones, add_routes of Prefilled, then both
    for each Step, where it has them. The last token of an answer has no routes, for it is never computed, and is no
    part of the Routing.

    n_experts  E
    tokenizer  None: pieces are ""
    """

    def __init__(self, n_experts: int, tokenizer: Tokenizer | None) -> None:
        self._n_experts = n_experts
        self._tokenizer = tokenizer
        self._tokens: list[tuple[int, float | None, Top]] = []
        self._routes: list[TokenRoutes] = []

    def add_token(self, token_id: int, logprob: float | None = None, top: Top = ()) -> None:
        """One more token of the text, with what is known of it: see engine.request.TokenInfo."""
        self._tokens.append((token_id, logprob, top))

    def add_routes(self, routes: TokenRoutes) -> None:
        """Those of the next tokens that have none yet."""
        self._routes.append(routes)
        if len(self._routes) == JOINED:  # a pass holds more than its routes while they are not looked at
            self._routes = [TokenRoutes.joined(self._routes)]

    @property
    def has_routes(self) -> bool:
        """Whether any are known: a request may find all its prompt in the cache and have one token to say."""
        return bool(self._routes)

    def routing(self) -> Routing:
        """All tokens whose routes are known. Raises RequestError where there is none."""
        if not self._routes:
            raise RequestError("routing: expected recorded routes, found none; ask for them with the request")
        routes = TokenRoutes.joined(self._routes)
        tokens = self._tokens[: len(routes)]
        ids = np.array([token_id for token_id, _, _ in tokens], dtype=np.int32)
        logprobs = np.array([np.nan if logprob is None else logprob for _, logprob, _ in tokens], dtype=np.float32)
        tops = [top for _, _, top in tokens]
        return Routing(
            ids=ids,
            pieces=text_pieces(self._tokenizer, ids.tolist()),
            experts=routes.experts,
            weights=routes.weights,
            n_experts=self._n_experts,
            logprobs=logprobs,
            alternatives=_alternatives(self._tokenizer, tops),
        )


def text_pieces(tokenizer: Tokenizer | None, ids: Sequence[int]) -> tuple[str, ...]:
    """What each id adds to the text: joined they are its decoding, that of a whole text where ids begin with BOS."""
    if tokenizer is None or not len(ids):
        return ("",) * len(ids)
    detokenizer = Detokenizer(tokenizer, strip_leading_space=ids[0] == tokenizer.bos_id)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    pieces[-1] += detokenizer.flush()
    return tuple(pieces)


def _alternatives(tokenizer: Tokenizer | None, tops: Sequence[Top]) -> Alternatives:
    """tops  of each token the likeliest ids and their log-probabilities; () where they are not known."""
    shape = (len(tops), max(map(len, tops), default=0))
    ids, logprobs = np.zeros(shape, np.int32), np.full(shape, np.nan, np.float32)
    names: dict[int, str] = {}
    if tokenizer is not None:
        names = {token_id: name for name, token_id in tokenizer.control_ids.items()}
    pieces = []
    for n, top in enumerate(tops):
        row = [""] * shape[1]
        for k, (token_id, logprob) in enumerate(top):
            ids[n, k], logprobs[n, k] = token_id, logprob
            if tokenizer is not None and token_id < tokenizer.n_words:  # a padded vocabulary's end has no text
                if token_id not in names:
                    names[token_id] = tokenizer.piece_bytes(token_id).decode("utf-8", errors="replace")
                row[k] = names[token_id]
        pieces.append(tuple(row))
    return Alternatives(ids, logprobs, tuple(pieces))
