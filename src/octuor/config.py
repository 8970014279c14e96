"""What a model is: its geometry and the constants of its forward pass.

Field names are Octuor's own; each checkpoint reader maps its format's spelling to them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from octuor.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Geometry of one model. A dense model has n_experts 1 and no router.

    sliding_window  a token sees itself and the sliding_window - 1 tokens before it; None: all of them
    max_seq_len     tokens of context the model was made for
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    n_experts: int = 8
    n_experts_per_token: int = 2
    norm_eps: float = 1e-5
    rope_theta: float = 1e6
    max_seq_len: int = 32768
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "sliding_window" and value is None:
                continue
            wanted = float if field.type == "float" else int
            if isinstance(value, bool) or not isinstance(value, (int, wanted)) or not 0 < value < float("inf"):
                raise ConfigError(f"config.{field.name}: expected a positive {wanted.__name__}, found {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"config.n_heads: expected a multiple of n_kv_heads ({self.n_kv_heads}), found {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"config.head_dim: expected an even number (RoPE rotates pairs), found {self.head_dim}")
        if self.n_experts_per_token > self.n_experts:
            raise ConfigError(
                f"config.n_experts_per_token: expected at most n_experts ({self.n_experts}), "
                f"found {self.n_experts_per_token}"
            )

    @property
    def is_dense(self) -> bool:
        """Whether the feed-forward part is a single expert without a router."""
        return self.n_experts == 1

    @property
    def n_params(self) -> int:
        """Weights in the whole model."""
        return self._outside_experts + self.n_layers * self.n_experts * self.expert_params

    @property
    def n_active_params(self) -> int:
        """Weights that one token meets; an embedding is one row, not a product, and is left out."""
        return (
            self._outside_experts
            - self.vocab_size * self.dim
            + self.n_layers * self.n_experts_per_token * self.expert_params
        )

    @property
    def expert_params(self) -> int:
        """Weights in one expert: gate, up and down."""
        return 3 * self.dim * self.hidden_dim

    @property
    def _outside_experts(self) -> int:
        attention = self.dim * self.head_dim * 2 * (self.n_heads + self.n_kv_heads)
        router = 0 if self.is_dense else self.n_experts * self.dim
        return self.n_layers * (attention + router + 2 * self.dim) + self.dim + 2 * self.vocab_size * self.dim

    def to_json(self) -> str:
        """The config as a JSON object with Octuor's field names."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelConfig:
        """Read to_json's output; `where` names the file in errors."""
        try:
            data: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{where}: expected a JSON config, found unreadable text ({error})") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected a JSON object as config, found {type(data).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ConfigError(f"{where}: unknown config fields {unknown}; was it written by a newer octuor?")
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError(f"{where}: config is incomplete ({error})") from error


MIXTRAL_8X7B = ModelConfig(
    dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32000
)
MIXTRAL_8X22B = ModelConfig(
    dim=6144, n_layers=56, n_heads=48, n_kv_heads=8, head_dim=128, hidden_dim=16384, vocab_size=32768,
    max_seq_len=65536,
)  # fmt: skip
MISTRAL_7B = ModelConfig(
    dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32000,
    n_experts=1, n_experts_per_token=1,
)  # fmt: skip
# Touvron et al. 2023, Llama 2, arXiv:2307.09288: the dense model that Mixtral is measured against
LLAMA_2_70B = ModelConfig(
    dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, head_dim=128, hidden_dim=28672, vocab_size=32000,
    n_experts=1, n_experts_per_token=1, rope_theta=1e4, max_seq_len=4096,
)  # fmt: skip

GEOMETRIES: dict[str, ModelConfig] = {
    "mixtral-8x7b": MIXTRAL_8X7B,
    "mixtral-8x22b": MIXTRAL_8X22B,
    "mistral-7b": MISTRAL_7B,
    "llama-2-70b": LLAMA_2_70B,
}
