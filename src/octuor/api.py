"""The Python API: load a model, then generate, chat, or look at its logits.

model = octuor.load("mixtral.octuor")
for token in model.chat([{"role": "user", "content": "Hello"}]):
    print(token.text, end="")
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from octuor import model as forward_pass
from octuor.batch import step
from octuor.cache import KVCache
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.memory import OnLoad, PageIn, read_resident
from octuor.checkpoint.peft import read_adapter
from octuor.config import ModelConfig
from octuor.errors import BackendError, RequestError, TokenizerError
from octuor.experts.budget import Budget, make_budget
from octuor.experts.load import load_streamed
from octuor.experts.store import Store
from octuor.generate import PREFILL_CHUNK, Context, Generation, OnPrefill, cache_tokens, check_ids, generate
from octuor.model import OnRoute
from octuor.ops import Ops
from octuor.routing.recording import Recording
from octuor.routing.trace import check_has_router, record, trace
from octuor.routing.values import Routing
from octuor.sampling import SamplingParams, make_sampler
from octuor.tokenizer import AnyMessage, Detokenizer, Tokenizer, encode_chat, encode_prompt, open_tokenizer
from octuor.units import parse_bytes

if TYPE_CHECKING:
    from octuor.adapters import Adapters

POCKET = Path(__file__).parent / "models" / "pocket.octuor"
BACKENDS = ("native", "reference", "torch")


def load(
    path_or_id: str | Path | None = None,
    *,
    threads: int | None = None,
    context: int | None = None,
    cache_dtype: str = "f16",
    backend: str = "native",
    resident: bool = False,
    memory: int | str | None = None,
    adapter: str | Path | None = None,
    on_load: OnLoad | None = None,
) -> Model:
    """Open a model; its weights are mapped, then read in the background, so this is quick at any size.

    path_or_id   an octuor pack, a checkpoint's folder, or a Hugging Face Hub id; None: the pocket model
    threads      None: one for each core this process may use
    context      tokens that prompt and answer may have together; None: all the model was made for
    cache_dtype  "f16" or "f32" keys and values
    backend      "native", "reference" (NumPy, slow) or "torch" (from the train extra)
    resident     True: copy the weights to memory of our own before returning. The system may take a mapping's pages
                 away when memory is short; it never takes these, but each process has its own and reads them anew
    memory       bytes that the whole process may have, as a number or as in "8GiB": weights outside the experts and
                 as many experts as fit are kept, others are read as they are needed (docs/memory.md); None: mapped
    adapter      a LoRA adapter's folder, as peft writes it, that all answers have where they name no other one
    on_load      called with bytes read and in all, from other threads too, where weights are not in memory already

    Raises CheckpointError, ConfigError, FormatError, ShapeError, BackendError, RequestError.
    """
    limit = parse_bytes(memory) if isinstance(memory, str) else memory
    if limit is not None and (resident or backend != "native"):
        found = "resident" if resident else f"backend {backend}"
        raise RequestError(f"memory: expected the native backend, without resident, found {found}; drop one of them")
    checkpoint = open_checkpoint(POCKET if path_or_id is None else path_or_id)
    ops = make_ops(backend, threads)
    if limit is not None and adapter is not None:
        changes = read_adapter(Path(adapter), checkpoint.config).changes.values()
        limit -= 2 * sum(change.a.nbytes + change.b.nbytes for change in changes)  # as read, and as it runs
    if resident:
        read_resident(checkpoint.files, on_load)
    model = Model(checkpoint, ops, context=context, cache_dtype=cache_dtype, memory=limit, on_load=on_load)
    if limit is None and not resident and backend == "native":  # the others make copies in formats of theirs
        model.read_ahead(on_load)
    if adapter is not None:
        model.adapter = model.adapters.load(adapter)
    return model


def make_ops(backend: str, threads: int | None = None) -> Ops:
    """The backend of that name."""
    if backend == "native":
        from octuor.ops.native import NativeOps

        return NativeOps(threads=threads)
    if backend == "reference":
        from octuor.ops.reference import ReferenceOps

        return ReferenceOps()
    if backend == "torch":
        try:
            from octuor.ops.torch import TorchOps
        except ModuleNotFoundError as error:
            raise BackendError('backend torch: expected PyTorch, found none; pip install "octuor[train]"') from error
        return TorchOps()
    raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}; found {backend!r}")


class Model:
    """A loaded model. Several generations may run at once, each from a thread of its own.

    adapter  the name of the one that answers have where they name no other; None: none
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        *,
        context: int | None,
        cache_dtype: str,
        memory: int | None = None,
        on_load: OnLoad | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.ops = ops
        self.context = checkpoint.config.max_seq_len if context is None else context
        if not 1 <= self.context <= checkpoint.config.max_seq_len:
            raise RequestError(
                f"context: expected 1 to the {checkpoint.config.max_seq_len} tokens {checkpoint.source} was made "
                f"for, found {self.context}"
            )
        self.adapter: str | None = None
        self._cache_dtype = cache_dtype
        self.chunk = PREFILL_CHUNK
        self.store: Store | None = None
        self.budget: Budget | None = None
        if memory is None:
            self.weights = checkpoint.weights(ops.put)
        else:
            self._stream(memory, context, on_load)
        self.page_in: PageIn | None = None
        self._idle: list[Context] = []
        self._lock = threading.RLock()  # a dropped answer may be collected, and its lease end, while it is held

    def read_ahead(self, on_load: OnLoad | None = None) -> None:
        """Read the mapped weights in the background, in the order in which answers need them; see memory.PageIn."""
        self.page_in = PageIn(self.checkpoint.files, on_load)
        weakref.finalize(self, self.page_in.stop)

    def _stream(self, memory: int, context: int | None, on_load: OnLoad | None) -> None:
        from octuor.ops.native import runs_in_place

        if self.checkpoint.tokenizer is not None:
            _ = self.tokenizer  # its memory counts
        itemsize = 2 if self._cache_dtype == "f16" else 4
        self.weights, self.store, self.budget = load_streamed(
            self.checkpoint,
            self.ops.put,
            lambda shape: make_budget(memory, shape, self.checkpoint.source, context),
            runs_in_place,
            cache_itemsize=itemsize,
            on_load=on_load,
        )
        self.context, self.chunk = self.budget.context, self.budget.chunk

    @property
    def is_streamed(self) -> bool:
        """Whether experts are read from disk as they are needed, for memory does not hold all of them."""
        return self.budget is not None and not self.budget.holds_all

    @property
    def config(self) -> ModelConfig:
        """The model's geometry."""
        return self.checkpoint.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer; TokenizerError where it has none."""
        if self.checkpoint.tokenizer is None:
            raise TokenizerError(
                f"{self.checkpoint.source}: has no tokenizer, so it takes and gives token ids only; "
                "put the model's tokenizer.model beside it and convert again"
            )
        return open_tokenizer(self.checkpoint.tokenizer)

    @cached_property
    def adapters(self) -> Adapters:
        """Its LoRA adapters: loaded and unloaded by name, at any time."""
        from octuor.adapters import Adapters

        return Adapters(self.ops, self.weights, self.config)

    def chat(
        self,
        messages: Sequence[AnyMessage],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> Generation:
        """Answer a conversation in the model's own Instruct format.

        messages  {"role", "content"} in turn, the last one the user's, or an assistant's with "prefix": True
        adapter   one of `adapters`; None: the model's own choice
        """
        ids = encode_chat(self.tokenizer, messages)
        return self._answer(ids, params, adapter, on_prefill, strip_leading_space=True)

    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> Generation:
        """Continue a text, after BOS, or a list of ids, taken as they are; adapter as in chat."""
        ids = encode_prompt(self.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        return self._answer(ids, params, adapter, on_prefill, strip_leading_space=False)

    def new_cache(self, n_tokens: int) -> KVCache:
        """An empty pool of keys and values for n_tokens, in this model's geometry and cache dtype."""
        return KVCache(self.config, self.ops.zeros, n_tokens, dtype=self._cache_dtype)

    def logits(
        self, tokens: Sequence[int], *, adapter: str | None = None, on_route: OnRoute | None = None
    ) -> NDArray[np.float32]:
        """Next-token logits after each of `tokens`, [T, V] float32; ids are taken as given, nothing is added.

        adapter   as in chat
        on_route  called with each layer's number and LayerRouting, for each chunk of tokens
        """
        ids = [int(token) for token in tokens]
        check_ids(ids, self.config.vocab_size)
        if len(ids) > self.config.max_seq_len:
            raise RequestError(
                f"tokens: expected at most {self.config.max_seq_len} (the model's context), found {len(ids)}"
            )
        out = np.empty((len(ids), self.config.vocab_size), dtype=np.float32)
        chunk = min(self.chunk, PREFILL_CHUNK)  # logits of a chunk are large
        cache = KVCache(self.config, self.ops.zeros, cache_tokens(self.config, len(ids), chunk), dtype="f32")
        sequence = cache.new()
        ops, _ = self.ops_of(adapter)
        for start in range(0, len(ids), chunk):
            batch = step(cache, [(sequence, ids[start : start + chunk])])
            hidden = forward_pass.forward(ops, self.weights, self.config, batch, on_route)
            rows = forward_pass.logits(self.ops, self.weights, hidden)
            out[start : start + len(rows)] = self.ops.to_numpy(rows)
        return out

    def route(
        self,
        text: str | Sequence[int],
        *,
        adapter: str | None = None,
        spoken: Sequence[range] = (),
        alternatives: int | None = 5,
        on_prefill: OnPrefill | None = None,
    ) -> Routing:
        """Which experts play each token of a text, after BOS, or of a list of ids, taken as they are.

        adapter       as in chat
        spoken        parts of the ids that the model said itself: with them, to the last bit what the engine recorded
        alternatives  how many of the likeliest tokens to tell for each place, with their log-probabilities; None: no
                      log-probabilities either, which takes less time
        on_prefill    called with tokens done and in all, after each pass

        Raises RequestError for a dense model, no tokens, ids outside the vocabulary, more than the context.
        """
        check_has_router(self.config)
        ids = encode_prompt(self.tokenizer, text) if isinstance(text, str) else [int(token) for token in text]
        check_ids(ids, self.config.vocab_size)
        if not 1 <= len(ids) <= self.context:
            raise RequestError(
                f"text: expected 1 to the {self.context} tokens of the context, found {len(ids)}; route it in parts"
            )
        if not all(0 <= part.start <= part.stop <= len(ids) and part.step == 1 for part in spoken):
            raise RequestError(f"spoken: expected ranges within the {len(ids)} tokens, found {list(spoken)}")
        if self.page_in is not None:
            self.page_in.wait(0)
        chunk = min(self.chunk, PREFILL_CHUNK)
        cache = self.new_cache(cache_tokens(self.config, len(ids), chunk))
        ops, _ = self.ops_of(adapter)
        passes = trace(
            ops, self.weights, self.config, cache, ids,
            spoken=spoken, chunk=chunk, has_logits=alternatives is not None,
        )  # fmt: skip
        tokenizer = None if self.checkpoint.tokenizer is None else self.tokenizer
        return record(passes, ids, Recording(self.config.n_experts, tokenizer), alternatives or 0, on_prefill)

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decoded token reads: all but the embedding and the idle experts."""
        config = self.config
        total = 0
        for name in self.checkpoint.names:
            if name != "embed":
                n_bytes = self.checkpoint.get(name).nbytes
                total += n_bytes * config.n_experts_per_token // config.n_experts if ".experts." in name else n_bytes
        return total

    def ops_of(self, adapter: str | None) -> tuple[Ops, int]:
        """The operations of an answer with that adapter, else the model's, and a number that no other has; 0: none."""
        name = self.adapter if adapter is None else adapter
        return (self.ops, 0) if name is None else self.adapters.ops_of(name)

    def _answer(
        self,
        ids: list[int],
        params: SamplingParams | None,
        adapter: str | None,
        on_prefill: OnPrefill | None,
        *,
        strip_leading_space: bool,
    ) -> Generation:
        if self.page_in is not None:
            self.page_in.wait(0)  # a disk that failed is said here, where it can be caught
        params = params if params is not None else SamplingParams()
        if params.logprobs is None:
            params = replace(params, logprobs=0)
        vocab_size = self.config.vocab_size
        detokenizer, eos_id, allowed = None, None, None
        if self.checkpoint.tokenizer is not None:
            detokenizer = Detokenizer(self.tokenizer, strip_leading_space=strip_leading_space)
            eos_id = self.tokenizer.eos_id
            if self.tokenizer.n_words < vocab_size:  # a padded vocabulary: its end has no text
                allowed = np.arange(vocab_size) < self.tokenizer.n_words
        sampler = make_sampler(params, vocab_size, eos_id)
        end_ids = frozenset(params.stop_ids if eos_id is None else (*params.stop_ids, eos_id))
        ops, owner = self.ops_of(adapter)
        return generate(
            ops, self.weights, self.config, self._lease(owner), ids, sampler, detokenizer,
            n_context=self.context, end_ids=end_ids, allowed=allowed, on_prefill=on_prefill, chunk=self.chunk,
        )  # fmt: skip

    @contextmanager
    def _lease(self, owner: int) -> Iterator[Context]:
        """A context for one answer. One is kept warm for the next turn of a talk; others are let go.

        owner  of what is in the context: an adapter's number
        """
        with self._lock:
            context = self._idle.pop() if self._idle else None
        if context is None:
            context = Context(self.config, self.ops, self.context, self._cache_dtype, self.chunk)
        context.belong_to(owner)
        try:
            yield context
        finally:
            with self._lock:
                if not self._idle:
                    self._idle.append(context)
