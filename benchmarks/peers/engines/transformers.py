"""transformers with PyTorch in bfloat16: a random-weight Mixtral built in the child, 3 GB a layer.

Its answers are single steps with a cache, random tokens in place of sampled ones. Compare with --format bf16.
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

PROMPT_BEFORE = 16
POOL = 1 << 24  # random numbers that all weights are cut from


@dataclass
class Transformers(PackagedEngine):
    """See the module."""

    name: str = "transformers"

    def install(self) -> None:
        self.environment.install(["torch", "transformers"], "torch, transformers")

    def prepare(self, subject: Subject) -> int:
        if subject.format_name != "bf16":
            raise EngineError(f"{self.name}: expected --format bf16, its own; found {subject.format_name}")
        self._subject = subject
        return 0

    def describe(self) -> str:
        versions = [f"{package} {self.environment.version(package)}" for package in ("transformers", "torch")]
        return f"{', '.join(versions)}, bfloat16, random weights"

    def measure(self, request: Request) -> list[Row]:
        return parse_rows(self.run(request))


def random_model(n_layers: int) -> Any:
    """MixtralForCausalLM in bfloat16, sizes of weights as in the synthetic GGUF."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM
    from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding

    config = MixtralConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=n_layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=32768,
    )
    with torch.device("meta"):
        model: Any = MixtralForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    model.model.rotary_emb = MixtralRotaryEmbedding(config)
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for i, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.data.fill_(0.25 if "input_layernorm" in name else 1.0)
            continue
        scale = 1.0 if "embed_tokens" in name else config.hidden_size**-0.5
        flat, start = parameter.data.view(-1), i * 4_194_301 % POOL
        source = torch.roll(pool, start) * scale
        for at in range(0, len(flat), POOL - 1):  # not POOL: experts must not be equal
            piece = flat[at : at + POOL - 1]
            piece.copy_(source[: len(piece)])
    return model


def measure(n_layers: int, threads: int, request: Request) -> list[Row]:
    """The rows of a request, each after a short warm-up; in the child."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, rows = random_model(n_layers), []

    def run(n_tokens: int, n_streams: int, cache: Any = None) -> Any:
        ids = torch.randint(3, 32000, (n_streams, n_tokens))
        return model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    with torch.inference_mode():
        for n in request.prompts:
            run(PROMPT_BEFORE, 1)
            began = time.perf_counter()
            run(n, 1)
            rows.append(Row("prompt", n, 1, n / (time.perf_counter() - began)))
        for n in request.batches:
            cache = run(1, n, run(PROMPT_BEFORE, n))
            began = time.perf_counter()
            for _ in range(request.answer):
                cache = run(1, n, cache)
            rows.append(Row("answer", request.answer, n, n * request.answer / (time.perf_counter() - began)))
    return rows


def main() -> None:
    given, request = read_inside()
    answer(measure(given["layers"], given["threads"], request))


if __name__ == "__main__":
    main()
