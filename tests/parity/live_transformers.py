"""Octuor against transformers itself: logits, greedy tokens, gradients, files. Run with `make test-parity`.

Every model passes through files: we write the folder, transformers loads it, our own reader opens it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from octuor import model
from octuor.batch import whole
from octuor.checkpoint import open_checkpoint
from octuor.ops.torch import TorchOps
from octuor.quant import BF16
from octuor.weights import build
from parity.cases import CASES, RECORDED, Case
from parity.checks import (
    GRADIENT_TOLERANCE,
    LOGIT_TOLERANCE,
    Expected,
    check_greedy,
    check_logits,
    toy,
)
from parity.oracle import expect, gradient, load, write_folder
from toys import BACKENDS, make_backend, relative_error

GRADIENT_CASES = CASES[:16]
FILE_CASES = CASES[:8]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)  # models so small that threads would only wait for each other
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path, Expected]:
    """A case, its folder, and transformers' answer."""
    case: Case = request.param
    folder = write_folder(case, tmp_path_factory.mktemp("model"))
    return case, folder, expect(load(folder), case)


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
def test_logits_and_greedy_tokens(asked: tuple[Case, Path, Expected], backend: str) -> None:
    case, folder, expected = asked
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == case.config
    found = toy(
        TorchOps() if backend == "torch" else make_backend(backend),
        case,
        {name: checkpoint.get(name) for name in checkpoint.names},
    )
    check_logits(found, case, expected)
    check_greedy(found, case, expected)


def test_recording_is_what_transformers_says_today(asked: tuple[Case, Path, Expected]) -> None:
    case, _, expected = asked
    with np.load(RECORDED) as file:
        assert relative_error(expected.logits, file[f"logits.{case.index}"]) <= LOGIT_TOLERANCE
        assert expected.tokens.tolist() == file[f"tokens.{case.index}"].tolist()


@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda case: case.name)
def test_gradients_of_all_parameters(case: Case, tmp_path: Path) -> None:
    """Of the next-token loss, through the torch backend with parameters as leaves."""
    oracle = load(write_folder(case, tmp_path))
    ids = torch.tensor(case.prompt)
    cross_entropy(oracle(ids[None]).logits[0, :-1], ids[1:]).backward()

    ops = TorchOps()
    ours = {name: torch.from_numpy(values.copy()).requires_grad_() for name, values in case.values.items()}
    weights = build(case.config, ours.__getitem__)
    hidden = model.forward(ops, weights, case.config, whole([case.prompt]))
    cross_entropy(model.logits(ops, weights, hidden)[:-1], ids[1:]).backward()

    theirs = {name: gradient(oracle, name, case.config).numpy() for name in ours}
    largest = max(float(np.abs(grad).max()) for grad in theirs.values())
    for name, parameter in ours.items():
        grad = np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        if name.endswith("router") and case.config.n_experts_per_token == 1:
            # the one expert's weight is always 1; transformers divides p by p, and roundoff is left
            assert not grad.any(), name
            assert np.abs(theirs[name]).max() <= GRADIENT_TOLERANCE * largest, name
        else:
            assert relative_error(grad, theirs[name]) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.name)
def test_files_that_transformers_writes_are_read_exactly(case: Case, tmp_path: Path) -> None:
    oracle: Any = load(write_folder(case, tmp_path / "ours"))
    oracle.save_pretrained(tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    assert checkpoint.config == case.config
    for name, values in case.values.items():
        np.testing.assert_array_equal(checkpoint.get(name).to_f32(), values, err_msg=name)


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.name)
def test_bfloat16_folders_mean_the_same_to_both(case: Case, tmp_path: Path) -> None:
    """The file's bfloat16 weights, widened to float32 by transformers and computed as they are by Octuor."""
    folder = write_folder(case, tmp_path, BF16)
    checkpoint = open_checkpoint(folder)
    assert {checkpoint.get(name).format for name in checkpoint.names} == {BF16}
    expected = expect(load(folder), case)
    for backend in BACKENDS:
        weights = {name: checkpoint.get(name) for name in checkpoint.names}
        check_logits(toy(make_backend(backend), case, weights), case, expected)
