"""Geometry: what is refused, what is counted, and the way to JSON and back."""

import json
from dataclasses import FrozenInstanceError, asdict, replace
from math import prod
from typing import Any

import pytest

from octuor.config import GEOMETRIES, MIXTRAL_8X7B, MIXTRAL_8X22B, ModelConfig
from octuor.errors import ConfigError
from octuor.weights import weight_shapes

SMALL = ModelConfig(dim=37, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=10, hidden_dim=29, vocab_size=61)
DENSE = replace(SMALL, n_experts=1, n_experts_per_token=1, sliding_window=5)


def changed(field: str, value: Any) -> ModelConfig:
    return ModelConfig(**(asdict(SMALL) | {field: value}))


@pytest.mark.parametrize("field", [name for name in asdict(SMALL) if name != "sliding_window"])
@pytest.mark.parametrize("value", [0, -1, None, "8", True, float("nan")])
def test_every_field_is_a_positive_number(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config\.{field}: expected a positive"):
        changed(field, value)


@pytest.mark.parametrize("field", [name for name, value in asdict(SMALL).items() if isinstance(value, int)])
def test_counts_are_whole(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.{field}: expected a positive int, found 8\.0"):
        changed(field, 8.0)


def test_constants_may_be_whole() -> None:
    assert replace(SMALL, rope_theta=10000, norm_eps=1).rope_theta == 10000


@pytest.mark.parametrize("window", [0, -4, 2.5, False])
def test_a_window_is_positive_or_none(window: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.sliding_window: expected a positive int"):
        replace(SMALL, sliding_window=window)
    assert replace(SMALL, sliding_window=None).sliding_window is None


def test_heads_share_kv_heads_evenly() -> None:
    with pytest.raises(ConfigError, match=r"config\.n_heads: expected a multiple of n_kv_heads \(4\), found 6"):
        replace(SMALL, n_kv_heads=4)


def test_rope_needs_pairs() -> None:
    with pytest.raises(ConfigError, match=r"config\.head_dim: expected an even number .*, found 9"):
        replace(SMALL, head_dim=9)


def test_no_more_experts_are_chosen_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"expected at most n_experts \(2\), found 3"):
        replace(SMALL, n_experts=2, n_experts_per_token=3)
    assert not replace(SMALL, n_experts=2, n_experts_per_token=2).is_dense


def test_a_config_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.dim = 4  # type: ignore[misc]
    assert replace(SMALL) == SMALL


@pytest.mark.parametrize("config", [SMALL, DENSE, *GEOMETRIES.values()])
def test_parameters_are_counted_as_weights_are_listed(config: ModelConfig) -> None:
    sizes = {name: prod(shape) for name, shape in weight_shapes(config)}
    assert config.n_params == sum(sizes.values())
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    active = sum(sizes.values()) - sizes["embed"] - experts + experts * config.n_experts_per_token // config.n_experts
    assert config.n_active_params == active


# Of the published files, by their own headers.
PUBLISHED = {
    "mixtral-8x7b": 46_702_792_704, "mixtral-8x22b": 140_630_071_296, "mistral-7b": 7_241_732_096,
    "llama-2-70b": 68_976_648_192,
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIES)
def test_published_sizes(name: str) -> None:
    assert GEOMETRIES[name].n_params == PUBLISHED[name]


@pytest.mark.parametrize(("config", "published"), [(MIXTRAL_8X7B, 12.9), (MIXTRAL_8X22B, 39.2)])
def test_published_active_sizes(config: ModelConfig, published: float) -> None:
    """Mistral AI's 12.9 B and 39 B count the embedding too, of which a token reads one row."""
    with_embedding = config.n_active_params + config.vocab_size * config.dim
    assert with_embedding / 1e9 == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize("config", [SMALL, DENSE, *GEOMETRIES.values()])
def test_json_and_back(config: ModelConfig) -> None:
    assert ModelConfig.from_json(config.to_json(), "test") == config


def test_json_may_leave_out_what_has_a_default() -> None:
    data = {name: value for name, value in asdict(MIXTRAL_8X7B).items() if name != "rope_theta"}
    assert ModelConfig.from_json(json.dumps(data), "test") == MIXTRAL_8X7B


BROKEN = {
    "not JSON": ("{", "unreadable text"),
    "no object": ("3", "expected a JSON object as config, found int"),
    "a list": ("[1]", "expected a JSON object as config, found list"),
    "unknown field": (json.dumps(asdict(SMALL) | {"n_gates": 1}), r"unknown config fields \['n_gates'\]"),
    "missing field": (json.dumps({"dim": 4}), "config is incomplete .*n_layers"),
    "impossible value": (json.dumps(asdict(SMALL) | {"dim": -4}), r"config\.dim: expected a positive int, found -4"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_json_is_refused_with_its_file(text: str) -> None:
    with pytest.raises(ConfigError, match=BROKEN[text][1]):
        ModelConfig.from_json(BROKEN[text][0], "model.octuor")
