"""What is measured is right where it can be known, and a number where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octuor.checkpoint import Checkpoint
from octuor.ops.native import NativeOps
from octuor.quant import F32
from octuor.tools.pack.calibrate import Calibration, calibrate, measures_as_arrays, read_measures
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.measure import (
    FAITH,
    KINDS,
    Mean,
    measure_layer,
    normalized,
    probe_rows,
    probed_layers,
)  # fmt: skip
from octuor.tools.pack.rounding import CANDIDATES, sample_rows
from octuor.tools.pack.sensitivity import divergence, factors
from octuor.tools.pack.text import Corpus
from octuor.tools.pack.walk import Source, Walk, log_softmax
from octuor.weights import Weight, weight_shapes
from tools.pack.conftest import STARVING


@pytest.fixture(scope="module")
def calibrated(model: Path, ops: NativeOps, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    from octuor.checkpoint import open_checkpoint
    from octuor.tools.pack.text import split

    rng = np.random.default_rng(1)
    corpus = split([rng.integers(0, 320, 24, dtype=np.int32) for _ in range(8)], "random")
    with Journal(tmp_path_factory.mktemp("journal") / "j") as journal:
        return calibrate(Source(open_checkpoint(model), ops), ops, corpus, journal)


def test_every_matrix_has_losses_that_fall_with_bits(calibrated: Calibration, source: Source) -> None:
    names = {name for name, shape in weight_shapes(source.config) if len(shape) == 2 and "router" not in name}
    assert set(calibrated.losses) == names
    for name, losses in calibrated.losses.items():
        attention = name.rpartition(".")[2] in ("wq", "wk", "wv", "wo")
        assert list(losses) == [row.name for row in CANDIDATES][2 if attention else 0 :], name
        values = list(losses.values())
        assert np.isfinite(values).all()
        assert values[0] > 2 * values[-1] > 0, name
        assert values == sorted(values, reverse=True), name


def test_a_starved_expert_is_quantized_by_its_weights_alone(calibrated: Calibration) -> None:
    n, e = STARVING
    assert calibrated.counts[n, e] == 0
    assert calibrated.counts.sum(axis=1).tolist() == [144, 144]  # six passages of 24 tokens, one expert each
    for part in ("gate", "up", "down"):
        assert f"layers.{n}.experts.{e}.{part}" not in calibrated.importance
        assert f"layers.{n}.experts.0.{part}" in calibrated.importance
        losses = calibrated.losses[f"layers.{n}.experts.{e}.{part}"]
        fed = calibrated.losses[f"layers.{n}.experts.0.{part}"]
        assert 0 < losses["q2"] < fed["q2"]  # it counts, for other text may choose it, but less


def test_importance_has_a_mean_of_one(calibrated: Calibration, source: Source) -> None:
    shapes = dict(weight_shapes(source.config))
    for name, values in calibrated.importance.items():
        assert values.shape == shapes[name][1:]
        assert values.dtype == np.float32
        assert values.min() > 0
        assert values.mean() == pytest.approx(1, rel=1e-5)


def test_few_tokens_are_drawn_to_what_many_say() -> None:
    loud = np.array([4.0, 0.0], dtype=np.float32)
    weights = {}
    for n in (1, FAITH, 1000 * FAITH):
        mean = Mean(np.zeros(2))
        mean.add(np.tile(loud, (n, 1)), np.ones(n, dtype=np.float32))
        weights[n] = mean.drawn_to(np.ones(2))
    first = [float(found[0]) for found in weights.values()]
    assert 1 < first[0] < 1.1 < first[1] < first[2] < 2
    assert Mean(np.zeros(3)).drawn_to(np.ones(3)).tolist() == [1, 1, 1]  # nothing was seen


def test_noise_is_as_large_as_it_should_be(source: Source, ops: NativeOps, corpus: Corpus) -> None:
    walk = Walk.start(source, corpus.calibration)
    probe = probe_rows(corpus.calibration)
    branches = {kind: walk.branch(probe) for kind in KINDS}
    measured = measure_layer(walk, ops, 144, probe, branches)
    assert set(measured.noise) == set(KINDS)
    for noise in measured.noise.values():
        assert 1e-5 < noise < 0.1  # NOISE squared, of parts that add about as much as the stream has
    again = read_measures(measures_as_arrays(measured))
    assert again.errors == measured.errors
    assert again.noise == measured.noise
    np.testing.assert_array_equal(again.counts, measured.counts)
    assert set(again.importance) == set(measured.importance)


def test_a_model_of_zeros_is_measured_without_a_stumble(
    source: Source, ops: NativeOps, corpus: Corpus, tmp_path: Path
) -> None:
    def load(name: str) -> Weight:
        shape = dict(weight_shapes(source.config))[name]
        x = np.ones(shape, np.float32) if len(shape) == 1 else np.zeros(shape, np.float32)
        return Weight(x, shape, F32, name)

    dead = Source(Checkpoint(source.config, Path("zeros"), "test", load), ops)
    with Journal(tmp_path / "j") as journal:
        found = calibrate(dead, ops, corpus, journal)
    assert all(np.isfinite(list(losses.values())).all() for losses in found.losses.values())
    assert all(np.isfinite(values).all() for values in found.importance.values())


def test_divergence_is_of_distributions() -> None:
    p = log_softmax(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=np.float32))
    q = log_softmax(np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], dtype=np.float32))
    expected = sum(1 / 3 * (np.log(1 / 3) - float(x)) for x in q[1])
    np.testing.assert_allclose(divergence(p, q), [0, expected], atol=1e-6)


def test_layers_between_probed_ones_are_interpolated() -> None:
    assert probed_layers(2) == (0, 1)
    assert probed_layers(32) == (0, 4, 9, 13, 18, 22, 27, 31)
    np.testing.assert_allclose(factors(5, {0: 1.0, 4: 16.0}), [1, 2, 4, 8, 16])
    np.testing.assert_allclose(factors(3, {1: 0.0}), [1e-12] * 3)


def test_sampled_rows_are_whole_tiles() -> None:
    x = np.arange(1000, dtype=np.float32)[:, None] * np.ones(4, dtype=np.float32)
    found = sample_rows(Weight(x, x.shape, F32))
    assert len(found.index) == 64 * 3 + 1000 % 64
    assert found.share == len(found.index) / 1000
    np.testing.assert_array_equal(found.rows, x[found.index])


def test_ratios_of_nothing_are_alike() -> None:
    assert normalized(np.zeros(3)).tolist() == [1, 1, 1]
