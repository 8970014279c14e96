"""kt-kernel, the CPU side of ktransformers: its experts alone, from the synthetic GGUF, through its llamafile backend.

Whole models need its GPU server, so attention, router and head are missing from its rows: they are an upper bound of
what it could do. Routing is random and even. Its Python classes pin memory and fail without a GPU; the child calls the
extension module below them, configured as they do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from engines.base import (
    EngineError,
    PackagedEngine,
    Request,
    Row,
    Subject,
    answer,
    parse_rows,
    read_inside,
)
from engines.llama_cpp import make_gguf

DIM, HIDDEN_DIM, N_EXPERTS, N_CHOSEN = 4096, 14336, 8, 2
WARM_UP = 16


@dataclass
class KtKernel(PackagedEngine):
    """type_name and gguf as for llama_cpp."""

    name: str = "kt_kernel"

    def install(self) -> None:
        self.environment.install(["kt-kernel"], "kt_kernel")

    def prepare(self, subject: Subject) -> int:
        self._subject = subject
        if self.gguf is None:
            self.gguf = make_gguf(self.environment, subject, self.type_name)
        return self.gguf.stat().st_size

    def describe(self) -> str:
        assert self.gguf is not None
        return f"{self.gguf.name}: kt-kernel {self.environment.version('kt-kernel')}, LLAMAFILE method, experts alone"

    def measure(self, request: Request) -> list[Row]:
        return parse_rows(self.run(request, self.gguf))


class Layer:
    """One layer's experts in the extension module; x [T, D] bfloat16 in and out."""

    def __init__(self, loader: Any, cpu_infer: Any, n: int, longest: int) -> None:
        import torch
        from kt_kernel import kt_kernel_ext

        names = [f"blk.{n}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
        weights = [loader.get_undequanted_tensor_and_ggml_type(name) for name in names]
        on_gpu = torch.zeros(N_EXPERTS, dtype=torch.bool)
        order = torch.arange(N_EXPERTS, dtype=torch.int32)
        config = kt_kernel_ext.moe.MOEConfig(N_EXPERTS, N_CHOSEN, DIM, HIDDEN_DIM, on_gpu.data_ptr())
        config.layer_idx, config.pool = n, cpu_infer.backend_
        config.m_block, config.group_min_len, config.max_len, config.group_max_len = 32, 10, longest, longest
        config.gate_proj, config.up_proj, config.down_proj = (data.data_ptr() for data, _ in weights)
        config.gate_type, config.up_type, config.down_type = (kind for _, kind in weights)
        config.hidden_type = kt_kernel_ext.kvcache.ggml_type.BF16
        self._cpu_infer, self._kept = cpu_infer, (weights, on_gpu)
        self._moe = kt_kernel_ext.moe.MOE(config)
        cpu_infer.submit(self._moe.load_weights_task(order.data_ptr()))
        cpu_infer.sync()

    def forward(self, x: Any, experts: Any) -> Any:
        """experts [T, 2] int64; each has half the weight."""
        import torch

        n_tokens = torch.tensor([len(x)], dtype=torch.int32)
        weights = torch.full(experts.shape, 1 / N_CHOSEN, dtype=torch.float32)
        out = torch.empty_like(x)
        pointers = [tensor.data_ptr() for tensor in (experts, weights, x, out)]
        self._cpu_infer.submit(self._moe.forward_task(n_tokens.data_ptr(), N_CHOSEN, *pointers, False))
        self._cpu_infer.sync()
        return out


def measure(path: str, n_layers: int, threads: int, request: Request) -> list[Row]:
    """The rows of a request, after a warm-up; in the child."""
    import torch
    from kt_kernel import kt_kernel_ext
    from kt_kernel.utils.loader import GGUFLoader

    longest = max(WARM_UP, *request.prompts, *request.batches)
    pool = kt_kernel_ext.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
    cpu_infer, loader = kt_kernel_ext.CPUInfer(pool), GGUFLoader(path)
    layers = [Layer(loader, cpu_infer, n, longest) for n in range(n_layers)]
    torch.manual_seed(0)

    def run(n_tokens: int) -> None:
        x = torch.randn(n_tokens, DIM).to(torch.bfloat16)
        for layer in layers:
            out = layer.forward(x, torch.rand(n_tokens, N_EXPERTS).topk(N_CHOSEN).indices.contiguous())
            x = x + out
        if not torch.isfinite(x).all():
            raise EngineError("kt_kernel: expected finite outputs, found others")

    rows = []
    run(WARM_UP)
    for n in request.prompts:
        began = time.perf_counter()
        run(n)
        rows.append(Row("prompt", n, 1, n / (time.perf_counter() - began)))
    for n in request.batches:
        began = time.perf_counter()
        for _ in range(request.answer):
            run(n)
        rows.append(Row("answer", request.answer, n, n * request.answer / (time.perf_counter() - began)))
    return rows


def main() -> None:
    given, request = read_inside()
    answer(measure(given["model"], given["layers"], given["threads"], request))


if __name__ == "__main__":
    main()
