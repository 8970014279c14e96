"""The operations in PyTorch: for training, for GPUs, and as a second opinion on the kernels.

T tokens, S keys, D dim, H query heads, K kv heads, C head_dim, E experts, A experts a token.
Every operation is differentiable. Norms, rotations, routing and softmax are float32; products run in
the parameters' dtype, so bfloat16 parameters give mixed-precision training without autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from octuor.batch import Batch
from octuor.ops import LayerRouting
from octuor.ops.torch_functions import GatherRows, RmsNorm, SpreadRows
from octuor.ops.torch_leaves import Adapted, FrozenMatrix, product
from octuor.weights import Expert, Leaf, Weight


class TorchOps:
    """The Ops over torch tensors; leaves are tensors (parameters, in training) or those of torch_leaves.

    device  where put, zeros and token ids go
    dtype   what put turns matrices into; vectors stay float32
    """

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.dtype = dtype

    def put(self, weight: Weight) -> Tensor:
        values = torch.from_numpy(np.array(weight.to_f32()))
        return values.to(self.device, self.dtype if values.ndim > 1 else torch.float32)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        return torch.zeros(shape, dtype=torch.float16 if dtype == "f16" else torch.float32, device=self.device)

    def to_numpy(self, x: Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = x.detach().float().cpu().numpy()
        return array

    def embed(self, tokens: NDArray[np.int32], weight: Tensor | FrozenMatrix) -> Tensor:
        if isinstance(weight, FrozenMatrix):
            return weight.rows_of(tokens)
        return F.embedding(self._ids(tokens), weight).float()

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed: Tensor = RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed

    def linear(self, x: Tensor, weight: Leaf) -> Tensor:
        return product(x, weight)

    def rope(self, x: Tensor, positions: NDArray[np.int32], theta: float) -> Tensor:
        half = x.shape[-1] // 2
        frequency = theta ** (-np.arange(half) / half)  # float64: positions go to 65535
        angle = torch.from_numpy(positions[:, None, None] * frequency)  # [T, 1, C/2]
        cos, sin = (f(angle).to(x.device, torch.float32) for f in (torch.cos, torch.sin))
        a, b = x[..., :half].float(), x[..., half:].float()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, batch: Batch, layer: int, window: int | None) -> Tensor:
        lengths = np.diff(batch.starts)
        if batch.cache is not None:
            pages, places = (self._ids(index) for index in batch.slots)
            batch.cache.keys[layer][pages, :, places] = k.to(batch.cache.keys[layer].dtype)
            batch.cache.values[layer][pages, :, places] = v.to(batch.cache.values[layer].dtype)
            return self._over_cache(q, batch, layer, window)
        longest = int(lengths.max(initial=0))
        if (lengths == longest).all() and (window is None or window >= longest):  # one call for a training step
            rows = [x.view(len(lengths), longest, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)]
            return _attend(*rows, mask=None).transpose(1, 2).reshape(q.shape)
        parts = []
        for start, end in zip(batch.starts[:-1], batch.starts[1:], strict=True):
            own = slice(int(start), int(end))
            rows = [x[own].transpose(0, 1)[None] for x in (q, k, v)]
            mask = self._mask(batch.positions[own], 0, int(end - start), window)
            parts.append(_attend(*rows, mask=mask)[0].transpose(0, 1))
        return torch.cat(parts)

    def route(self, x: Tensor, router: Tensor | Adapted | None, n_chosen: int) -> LayerRouting:
        if router is None:
            ones = torch.ones(len(x), 1, device=x.device)
            return LayerRouting(
                torch.zeros(len(x), 1, dtype=torch.int64, device=x.device), ones, torch.zeros_like(ones)
            )
        logits = product(x.float(), router.float() if isinstance(router, Tensor) else router)
        ordered, index = torch.sort(logits, dim=-1, descending=True, stable=True)  # topk leaves ties open
        return LayerRouting(index[:, :n_chosen], torch.softmax(ordered[:, :n_chosen], dim=-1), logits)

    def moe(self, x: Tensor, routing: LayerRouting, experts: Sequence[Expert]) -> Tensor:
        n_chosen = routing.experts.shape[1]
        by_expert = torch.argsort(routing.experts.reshape(-1), stable=True)  # [T * A], tokens grouped by expert
        counts = torch.bincount(routing.experts.reshape(-1), minlength=len(experts)).tolist()
        places = torch.empty_like(by_expert)
        places[by_expert] = torch.arange(len(by_expert), device=x.device)
        places = places.view(routing.experts.shape)
        rows: Tensor = SpreadRows.apply(x.to(experts[0].gate.dtype), by_expert // n_chosen, places)  # type: ignore[no-untyped-call]
        grouped = rows.split(counts)
        hidden = [
            product(F.silu(product(own, expert.gate)) * product(own, expert.up), expert.down)
            for own, expert in zip(grouped, experts, strict=True)
            if len(own)  # an expert that no token chose is not read
        ]
        if not hidden:
            return torch.zeros_like(x, dtype=torch.float32)
        found: Tensor = GatherRows.apply(torch.cat(hidden), routing.weights, places)  # type: ignore[no-untyped-call]
        return found

    def _over_cache(self, q: Tensor, batch: Batch, layer: int, window: int | None) -> Tensor:
        assert batch.cache is not None
        page_size = batch.cache.page_size
        parts = []
        for b, sequence in enumerate(batch.sequences):
            own = slice(int(batch.starts[b]), int(batch.starts[b + 1]))
            positions = batch.positions[own]
            if not len(positions):
                continue
            first = 0 if window is None else max(0, int(positions[0]) - window + 1)
            at = np.arange(first, sequence.length)
            pages, places = self._ids(batch.table[b, at // page_size]), self._ids(at % page_size)
            k, v = (
                pool[layer][pages, :, places].to(q.dtype).transpose(0, 1)[None]  # [1, K, S, C]
                for pool in (batch.cache.keys, batch.cache.values)
            )
            mask = self._mask(positions, first, sequence.length, window)
            parts.append(_attend(q[own].transpose(0, 1)[None], k, v, mask=mask)[0].transpose(0, 1))
        return torch.cat(parts) if parts else q

    def _mask(self, positions: NDArray[np.int32], first: int, end: int, window: int | None) -> Tensor:
        """What each token may see of the keys at positions first to end: [T, S] bool."""
        at = np.arange(first, end)
        seen = at <= positions[:, None]
        if window is not None:
            seen &= at > positions[:, None] - window
        return torch.from_numpy(seen).to(self.device)

    def _ids(self, ids: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    """q [B, H, T, C], k and v [B, K, S, C]; mask None: causal with T = S."""
    shared = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
