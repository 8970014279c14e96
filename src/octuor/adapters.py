"""The adapters of a loaded model: by name, loaded and let go while it answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.peft import read_adapter
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.ops import Ops
from octuor.ops.adapted import AdaptedOps, Changes, Stack
from octuor.ops.native import NativeOps
from octuor.weights import Weights

ADAPTERS_AT_ONCE = 64


@dataclass(eq=False)
class LoadedAdapter:
    """One adapter in memory.

    serial   differs between all that a process has loaded, also under one name
    n_uses   answers that run with it; it stays in memory for them
    """

    name: str
    path: Path
    changes: Changes
    serial: int
    n_uses: int = 0


@dataclass(frozen=True)
class Slotted:
    """Adapters with their places in a stack."""

    stack: Stack
    slots: dict[LoadedAdapter, int]


class Adapters:
    """Those of one model; all methods may be called from any thread."""

    def __init__(self, ops: Ops, weights: Weights, config: ModelConfig) -> None:
        self._ops, self._weights, self._config = ops, weights, config
        self._lock = threading.Lock()
        self._named: dict[str, LoadedAdapter] = {}
        self._held: list[LoadedAdapter] = []  # the named ones, and those that were let go and are still in use
        self._serials = count(1)
        self._slotted: Slotted | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that may be asked for."""
        with self._lock:
            return tuple(self._named)

    def load(self, path: str | Path, name: str | None = None) -> str:
        """Read an adapter's folder, as peft writes it; returns its name.

        name  None: the folder's

        Raises CheckpointError and ConfigError where it is no LoRA of this model, RequestError where the name is taken
        or the backend is another than the native one.
        """
        path = Path(path)
        name = path.resolve().name if name is None else name
        if not isinstance(self._ops, NativeOps):
            raise RequestError("adapter: expected the native backend, found another; merge it with octuor convert")
        if not name or ":" in name or not name.isprintable():
            raise RequestError(f"adapter name: expected printable text without a colon, found {name!r}")
        changes = read_adapter(path, self._config).changes
        with self._lock:
            if name in self._named:
                raise RequestError(f"adapter {name!r}: is loaded already; unload it first or take another name")
            if len(self._named) >= ADAPTERS_AT_ONCE:
                raise RequestError(f"adapters: expected at most {ADAPTERS_AT_ONCE} at once; unload another one first")
            adapter = LoadedAdapter(name, path, changes, next(self._serials))
            self._named[name] = adapter
            self._held.append(adapter)
            self._slotted = None
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter; answers that run with it end with it. Raises RequestError where there is none."""
        with self._lock:
            adapter = self._find(name)
            del self._named[name]
            self._let_go(adapter)

    def acquire(self, name: str) -> LoadedAdapter:
        """The adapter of that name, kept until `release`. Raises RequestError where there is none."""
        with self._lock:
            adapter = self._find(name)
            adapter.n_uses += 1
            return adapter

    def release(self, adapter: LoadedAdapter) -> None:
        """Undo one acquire."""
        with self._lock:
            adapter.n_uses -= 1
            if self._named.get(adapter.name) is not adapter:
                self._let_go(adapter)

    def ops_of(self, name: str) -> tuple[Ops, int]:
        """The operations of an answer that has this adapter, even if it is unloaded meanwhile; and its serial number.

        Raises RequestError where there is none.
        """
        with self._lock:
            adapter, slotted = self._find(name), self._all()
        return AdaptedOps(self._native, slotted.stack, slotted.slots[adapter]), adapter.serial

    def ops_for(self, tokens: Sequence[tuple[LoadedAdapter | None, int]], rows: NDArray[np.int32]) -> Ops:
        """The operations of one pass.

        tokens  whose adapters they have, which are in use, and how many follow each other
        rows    forward's `rows`
        """
        with self._lock:
            slotted = self._all()
        slots = [-1 if adapter is None else slotted.slots[adapter] for adapter, _ in tokens]
        each = np.repeat(np.array(slots, dtype=np.int32), [n for _, n in tokens])
        return AdaptedOps(self._native, slotted.stack, each, rows)

    @property
    def _native(self) -> NativeOps:
        assert isinstance(self._ops, NativeOps)  # no other has adapters
        return self._ops

    def _all(self) -> Slotted:
        """All that are held, those in use among them, and what they change."""
        if self._slotted is None:
            stack = Stack(self._weights, [adapter.changes for adapter in self._held])
            self._slotted = Slotted(stack, {adapter: slot for slot, adapter in enumerate(self._held)})
        return self._slotted

    def _find(self, name: str) -> LoadedAdapter:
        found = self._named.get(name)
        if found is None:
            here = ", ".join(self._named) or "none"
            raise RequestError(f"adapter: expected one of those that are loaded ({here}), found {name!r}")
        return found

    def _let_go(self, adapter: LoadedAdapter) -> None:
        if adapter.n_uses == 0:
            self._held.remove(adapter)
            self._slotted = None
