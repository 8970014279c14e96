"""The native operations over one base and the low-rank changes of several adapters, each for its own tokens.

T tokens, R wanted ones, A experts a token, L slots. The base's products are as they are without adapters; what a
change adds is computed row by row, so a token's result does not depend on its neighbours or on their adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor import _native
from octuor.ops import LayerRouting
from octuor.ops.native import F32Array, NativeOps
from octuor.ops.reference import softmax
from octuor.weights import Expert, LowRank, StreamedExperts, Weights

Slots = NDArray[np.int32]
Changes = Mapping[str, LowRank]  # by canonical names of weights
_MATRICES = ("wq", "wk", "wv", "wo", "router")


@dataclass(frozen=True)
class Change:
    """What the adapters in all slots add to one matrix.

    of   the slots that change it
    has  [L + 1] bool, the same; the last one, slot -1, is no adapter's
    """

    native: _native.LowRank
    of: frozenset[int]
    has: NDArray[np.bool_]


class Stack:
    """The changes of several adapters, one a slot, by the leaves of the base that they change.

    weights  of the base, with leaves of NativeOps; they are told apart by identity
    """

    def __init__(self, weights: Weights, adapters: Sequence[Changes]) -> None:
        self.matrices: dict[int, Change] = {}  # by id of a leaf
        self.experts: dict[int, dict[tuple[int, str], Change]] = {}  # by id of a layer's experts
        for n, layer in enumerate(weights.layers):
            for part in _MATRICES:
                change = _change([adapter.get(f"layers.{n}.{part}") for adapter in adapters])
                if change is not None:
                    self.matrices[id(getattr(layer, part))] = change
            of_experts = {
                (e, part): change
                for e in range(len(layer.experts))
                for part in ("gate", "up", "down")
                if (change := _change([adapter.get(f"layers.{n}.experts.{e}.{part}") for adapter in adapters]))
            }
            if of_experts:
                self.experts[id(layer.experts)] = of_experts


class AdaptedOps(NativeOps):
    """The Ops of one forward pass whose tokens have adapters.

    ops    whose threads and instruction set it shares
    slots  [T] each token's slot in the stack, -1: none; or one for all tokens of all passes
    rows   [R] forward's `rows`, rising: whose tokens the last layer's experts run for; None: all
    """

    def __init__(self, ops: NativeOps, stack: Stack, slots: Slots | int, rows: Slots | None = None) -> None:
        self.isa, self._context = ops.isa, ops._context
        self._stack, self._slots, self._rows = stack, slots, rows
        self._used = frozenset((slots,) if isinstance(slots, int) else slots.tolist())

    def linear(self, x: F32Array, weight: _native.Matrix) -> F32Array:
        out = super().linear(x, weight)
        change = self._stack.matrices.get(id(weight))
        if change is not None and self._has(change):
            self.low_rank(x, change.native, self._slots_of(x), out)
        return out

    def route(self, x: F32Array, router: _native.Matrix | None, n_chosen: int) -> LayerRouting:
        routing = super().route(x, router, n_chosen)
        change = self._stack.matrices.get(id(router))
        if change is not None and self._has(change):
            slots = self._slots_of(x)
            self.low_rank(x, change.native, slots, routing.logits)
            changed = change.has[slots]
            logits = routing.logits[changed]
            chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :n_chosen].astype(np.int32)
            routing.experts[changed] = chosen
            routing.weights[changed] = softmax(np.take_along_axis(logits, chosen, axis=-1))
        return routing

    def moe(self, x: F32Array, routing: LayerRouting, experts: Sequence[Expert]) -> F32Array:
        changes = self._stack.experts.get(id(experts), {})
        if not any(map(self._has, changes.values())):
            return super().moe(x, routing, experts)
        slots = self._slots_of(x)
        changed = np.any([change.has[slots] for change in changes.values()], axis=0)
        out = np.empty(x.shape, dtype=np.float32)
        for tokens, is_changed in ((np.flatnonzero(~changed), False), (np.flatnonzero(changed), True)):
            if len(tokens):
                own = LayerRouting(*(np.ascontiguousarray(part[tokens]) for part in routing))
                if is_changed:
                    out[tokens] = self._changed_moe(x[tokens], own, experts, changes, slots[tokens])
                else:
                    out[tokens] = super().moe(x[tokens], own, experts)
        return out

    def _changed_moe(
        self,
        x: F32Array,
        routing: LayerRouting,
        experts: Sequence[Expert],
        changes: Mapping[tuple[int, str], Change],
        slots: Slots,
    ) -> F32Array:
        """As moe, an expert after the other, for its inner products change, too."""
        partial = np.empty((*routing.experts.shape, x.shape[1]), dtype=np.float32)

        def play(e: int) -> None:
            tokens, places = np.nonzero(routing.experts == e)
            own, whose, expert = x[tokens], slots[tokens], experts[e]

            def product(values: F32Array, part: str, leaf: Any) -> F32Array:
                found = super(AdaptedOps, self).linear(values, leaf)
                if (change := changes.get((e, part))) is not None:
                    self.low_rank(values, change.native, whose, found)
                return found

            hidden = self.swiglu(product(own, "gate", expert.gate), product(own, "up", expert.up))
            partial[tokens, places] = product(hidden, "down", expert.down)

        if isinstance(experts, StreamedExperts):
            with closing(experts.visit(routing.experts)) as groups:
                for held in groups:
                    for e in held.tolist():
                        play(e)
        else:
            for e in np.unique(routing.experts).tolist():
                play(e)
        out = np.empty(x.shape, dtype=np.float32)
        self._context.moe_sum(routing.experts, routing.weights, partial, out)
        return out

    def _has(self, change: Change) -> bool:
        """Whether any token of the pass gets it."""
        return not change.of.isdisjoint(self._used)

    def _slots_of(self, x: F32Array) -> Slots:
        """[len(x)]: of all tokens of the pass, or of the wanted ones, which is the same where they are as many."""
        if isinstance(self._slots, int):
            return np.full(len(x), self._slots, dtype=np.int32)
        if len(x) == len(self._slots) or self._rows is None:
            return self._slots
        return self._slots[self._rows]


def _change(changes: Sequence[LowRank | None]) -> Change | None:
    """All slots' changes of one matrix; None where there is none."""
    found = [change for change in changes if change is not None]
    if not found:
        return None
    pairs = [
        None
        if change is None
        else (np.ascontiguousarray(change.a), np.ascontiguousarray((change.b * np.float32(change.scale)).T))
        for change in changes
    ]
    has = np.array([*(change is not None for change in changes), False])
    native = _native.LowRank(pairs, len(found[0].b), found[0].a.shape[1])
    return Change(native, frozenset(np.flatnonzero(has).tolist()), has)
