"""Gradients through a base as it is stored are those through its numbers written out; `make test-parity`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreign import BLOCKS, blocks, bnb_4, gptq
from octuor.checkpoint import Checkpoint
from octuor.config import ModelConfig
from octuor.ops import decoded
from octuor.ops.native import NativeOps
from octuor.ops.torch import TorchOps
from octuor.ops.torch_leaves import Adapted, FrozenMatrix, product
from octuor.quant import F32, find_format
from octuor.tune.encode import Piece
from octuor.tune.forward import Turn, hidden_states, make_turn
from octuor.tune.loss import log_probabilities
from octuor.tune.recipe import Method, Schedule
from octuor.tune.student import Student
from octuor.weights import Leaf, Weight, Weights, build, weight_shapes
from toys import random_values

CONFIG = ModelConfig(
    dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=320, n_experts=4,
    rope_theta=1e4, max_seq_len=64,
)  # fmt: skip
SAME = 1e-5  # of a gradient's largest number: float32 sums in another order
METHOD = Method(targets=("attention", "experts", "router"), rank=4, alpha=8)
F32Array = NDArray[np.float32]


def of_format(name: str) -> Callable[[F32Array], Weight]:
    row = find_format(name)
    return lambda x: Weight(NativeOps(threads=1).quantize(x, row), x.shape, row)


def ggml(name: str, out: int, inputs: int) -> Weight:
    """Any codes of a ggml type, their scales such that rows are of about unit length."""
    weight = blocks(name, out, inputs)
    stored = weight.data.copy()
    fields = stored.reshape(-1).view(BLOCKS[name].layout)
    shrink = inputs**-0.5 / float(np.sqrt(np.square(weight.to_f32()).mean()))
    for field in {"d", "dmin"} & set(fields.dtype.names or ()):
        fields[field] = fields[field] * shrink
    return replace(weight, data=stored)


STORAGES: dict[str, Callable[[F32Array], Weight]] = {
    **{name: of_format(name) for name in ("f32", "f16", "bf16", "q8", "q6", "q4", "q3", "q2")},
    "gguf q4_K": lambda x: ggml("gguf-q4_k", *x.shape),
    "gguf q6_K": lambda x: ggml("gguf-q6_k", *x.shape),
    "gptq 4": lambda x: gptq(4, *x.shape),
    "nf4": lambda x: bnb_4("nf4", *x.shape),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices here are smaller than one block; let them have several."""
    monkeypatch.setattr(decoded, "CHUNK_WEIGHTS", 64 * 256)


def checkpoint_of(store: Callable[[F32Array], Weight]) -> Checkpoint:
    """A random model in a storage."""
    values, weights = random_values(CONFIG, [3]), {}
    for name, _ in weight_shapes(CONFIG):
        x = values[name]
        is_plain = x.ndim == 1 or name == "embed" or name.endswith("router")
        weights[name] = replace(Weight(x, x.shape, F32) if is_plain else store(x), name=name)
    return Checkpoint(CONFIG, Path("random"), "test", weights.__getitem__)


def student_of(checkpoint: Checkpoint, method: Method = METHOD) -> Student:
    """With pairs that change something, so that gradients reach a as well as b."""
    student = Student(checkpoint, method, Schedule(), torch.float32, NativeOps(threads=1), 0)
    random = torch.Generator().manual_seed(5)
    for name, value in student.learner.masters.items():
        if name.endswith("lora_b"):
            value.copy_(torch.randn(value.shape, generator=random) * 0.02)
    student.learner.refresh()
    return student


def written_out(student: Student) -> Weights:
    """The student's weights, the base's numbers as plain tensors."""
    tree = student.weights
    leaves: dict[str, Leaf] = {"embed": tree.embed, "norm": tree.norm, "lm_head": tree.lm_head}
    for n, layer in enumerate(tree.layers):
        parts = vars(layer)
        leaves |= {f"layers.{n}.{part}": parts[part] for part in parts if part != "experts"}
        for e, expert in enumerate(layer.experts):
            leaves |= {f"layers.{n}.experts.{e}.{part}": leaf for part, leaf in vars(expert).items()}

    def plain(leaf: Leaf) -> Leaf:
        if isinstance(leaf, FrozenMatrix):
            return torch.from_numpy(np.array(leaf.weight.to_f32()))
        return replace(leaf, base=plain(leaf.base)) if isinstance(leaf, Adapted) else leaf

    return build(CONFIG, lambda name: plain(leaves[name]))


def a_turn() -> Turn:
    """Three sequences of unlike lengths."""
    random = np.random.default_rng(1)
    pieces = []
    for n in (23, 2, 17):
        ids = random.integers(3, CONFIG.vocab_size, n).astype(np.int32)
        pieces.append(Piece(ids, random.random(n) < 0.6))
    return make_turn(pieces)


def gradients(student: Student, tree: Weights, *, checkpointing: bool = False) -> tuple[float, dict[str, Tensor]]:
    hidden, balance = hidden_states(
        TorchOps(), tree, CONFIG, a_turn().batch, a_turn().rows, checkpointing=checkpointing, balanced=True
    )  # fmt: skip
    assert balance is not None
    loss = -log_probabilities(hidden, tree.lm_head, a_turn().targets, 7).mean() + 0.1 * balance
    names = list(student.learner.working)
    found = torch.autograd.grad(loss, [student.learner.working[name] for name in names])
    return float(loss.detach()), dict(zip(names, found, strict=True))


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, theirs in expected.items():
        assert theirs.abs().max() > 0, name
        assert (ours[name] - theirs).abs().max() <= SAME * theirs.abs().max(), name


@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_over_a_stored_base_are_those_over_its_numbers(storage: str) -> None:
    student = student_of(checkpoint_of(STORAGES[storage]))
    loss, ours = gradients(student, student.weights)
    expected_loss, expected = gradients(student, written_out(student))
    assert loss == pytest.approx(expected_loss, rel=SAME)
    assert_same(ours, expected)


def test_computing_a_layer_again_changes_no_gradient() -> None:
    student = student_of(checkpoint_of(STORAGES["q4"]))
    loss, ours = gradients(student, student.weights, checkpointing=True)
    expected_loss, expected = gradients(student, student.weights)
    assert loss == expected_loss
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_dropout_is_the_same_when_a_layer_is_computed_again() -> None:
    student = student_of(checkpoint_of(STORAGES["q4"]), Method(rank=4, dropout=0.4))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        hidden, _ = hidden_states(
            TorchOps(),
            student.weights,
            CONFIG,
            a_turn().batch,
            a_turn().rows,
            checkpointing=checkpointing,
            balanced=False,
        )
        found.append(torch.autograd.grad(hidden.square().mean(), list(student.learner.working.values())))
    assert all(torch.equal(*both) for both in zip(*found, strict=True))
    settled, _ = hidden_states(
        TorchOps(), student.settled, CONFIG, a_turn().batch, a_turn().rows, checkpointing=False, balanced=False
    )
    assert not torch.equal(settled, hidden)


def test_products_are_those_of_the_numbers() -> None:
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = STORAGES["q3"](random_values(CONFIG, [3])["layers.0.wq"])
    found = product(x, FrozenMatrix(weight, NativeOps(threads=1), torch.float32))
    expected = x @ torch.from_numpy(weight.to_f32()).T
    torch.testing.assert_close(found, expected, rtol=SAME, atol=SAME)
    ours, theirs = (torch.autograd.grad(y.square().sum(), [x])[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=SAME, atol=SAME * float(theirs.abs().max()))


def test_experts_that_no_token_chose_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of(checkpoint_of(STORAGES["q4"]))
    read: set[str] = set()
    blocks_of = FrozenMatrix.blocks

    def watched(self: FrozenMatrix) -> object:
        read.add(self.weight.name)
        return blocks_of(self)

    monkeypatch.setattr(FrozenMatrix, "blocks", watched)
    turn = make_turn([Piece(np.array([5, 6], dtype=np.int32), np.array([False, True]))])  # one token, two experts
    hidden, _ = hidden_states(
        TorchOps(), student.weights, CONFIG, turn.batch, turn.rows, checkpointing=True, balanced=False
    )
    hidden.sum().backward()
    for n in range(CONFIG.n_layers):
        assert len({name for name in read if name.startswith(f"layers.{n}.experts.")}) == 3 * CONFIG.n_experts_per_token


def test_neighbours_in_a_turn_do_not_see_each_other() -> None:
    student = student_of(checkpoint_of(STORAGES["q8"]))
    random = np.random.default_rng(2)
    pieces = [
        Piece(random.integers(3, 300, n).astype(np.int32), np.ones(n, dtype=bool)) for n in (9, 30, 9)
    ]  # fmt: skip

    def states(part: list[Piece]) -> Tensor:
        turn = make_turn(part)
        hidden, _ = hidden_states(
            TorchOps(), student.weights, CONFIG, turn.batch, turn.rows, checkpointing=False, balanced=False
        )
        return hidden.detach()

    together = states(pieces)
    apart = torch.cat([states([piece]) for piece in pieces])
    torch.testing.assert_close(together, apart, rtol=SAME, atol=SAME * float(apart.abs().max()))


def test_log_probabilities_without_a_head_that_learns_are_those_with_one() -> None:
    random = torch.Generator().manual_seed(4)
    weight = STORAGES["q8"](random_values(CONFIG, [4])["lm_head"])
    hidden = torch.randn(11, 256, generator=random).requires_grad_()
    targets = torch.randint(0, CONFIG.vocab_size, (11,), generator=random)
    factors = torch.randn(11, generator=random)  # of another sign and size each, as preferences have them
    plain = torch.from_numpy(np.array(weight.to_f32())).requires_grad_()
    expected = torch.log_softmax(hidden @ plain.T, -1).gather(1, targets[:, None])[:, 0]
    (slope,) = torch.autograd.grad((factors * expected).sum(), [hidden])
    for head in (FrozenMatrix(weight, NativeOps(threads=1), torch.float32), plain):
        found = log_probabilities(hidden, head, targets, 4)
        torch.testing.assert_close(found, expected, rtol=SAME, atol=SAME)
        (ours,) = torch.autograd.grad((factors * found).sum(), [hidden])
        torch.testing.assert_close(ours, slope, rtol=SAME, atol=SAME * float(slope.abs().max()))
