"""Training steps of `octuor train` against transformers, tokens a second.

    python benchmarks/training.py [--steps N] [--threads N] [--experts eager|grouped_mm]

Both train the recipe's model from the same weights on the same rows of random ids, of which the loss counts a share
of 0.6, with the same AdamW, clipping and weight of a balancing loss, in bfloat16 over float32 parameters: ours with
working copies, transformers under autocast, as its Trainer's bf16 option does. transformers runs with SDPA attention
and, unless one is named, whichever of its experts is faster here. Steps alternate, and the losses of the first must
agree. A step is all from rows to updated parameters; warm-up excluded, medians.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
from torch import Tensor

from octuor.ops.torch import TorchOps
from octuor.quant import F32
from octuor.tools.export.huggingface import write_huggingface
from octuor.train.data import Source, TokenStream
from octuor.train.loop import train_step
from octuor.train.recipe import Recipe, Stage, read_recipe
from octuor.train.state import TrainState

POCKET = Path(__file__).parent.parent / "recipes" / "pocket-first.toml"
# transformers' third, batched_mm, copies the experts' weights for every token: 18 GB are not enough for a step
EXPERTS = ("eager", "grouped_mm")
LEARNED_SHARE = 0.6  # of the pocket model's corpus, about
BF16_LOSS = 0.02  # nats that the first losses may differ by: rounding in another order

Step = Callable[[], float]  # does one step and returns its mean cross-entropy, nats


def random_stream(recipe: Recipe) -> TokenStream:
    """Rows as the recipe's, of random ids; every call gives the same rows."""
    rng = np.random.default_rng(0)
    n_documents, length = 2000, 200
    ids = rng.integers(3, recipe.model.vocab_size, n_documents * length).astype(np.uint16)
    learned = rng.random(len(ids)) < LEARNED_SHARE
    source = Source("random", ids, learned, np.arange(0, len(ids) + 1, length))
    return TokenStream({"random": source}, recipe.stages, recipe.schedule.seq_len, seed=0)


def our_step(recipe: Recipe) -> Step:
    """The step of `octuor train`."""
    state, stream = TrainState(recipe), random_stream(recipe)
    ops = TorchOps(dtype=state.dtype)
    done = 0

    def step() -> float:
        nonlocal done
        done += 1
        return train_step(recipe, state, ops, stream, done - 1).loss

    return step


def their_step(recipe: Recipe, experts: str) -> Step:
    """A step of transformers' model and loss, as its Trainer takes it."""
    model = initial_model(recipe, experts)
    schedule = recipe.schedule
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=schedule.learning_rate / schedule.warmup_steps, betas=(schedule.beta1, schedule.beta2), fused=True,
    )  # fmt: skip
    stream = random_stream(recipe)

    def step() -> float:
        ids, targets = their_rows(stream, schedule.sequences_per_step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(out.loss.detach() - schedule.balance * out.aux_loss.detach())

    return step


def initial_model(recipe: Recipe, experts: str) -> torch.nn.Module:
    """MixtralForCausalLM in float32 with the weights that our training begins from."""
    masters = TrainState(recipe).masters
    with tempfile.TemporaryDirectory() as folder:
        write_huggingface(Path(folder) / "model", recipe.model, lambda name: masters[name].numpy(), F32)
        model: torch.nn.Module = transformers.MixtralForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=torch.float32, attn_implementation="sdpa", experts_implementation=experts,
            output_router_logits=True, router_aux_loss_coef=recipe.schedule.balance,
        )  # fmt: skip
    return model.train()


def their_rows(stream: TokenStream, n_rows: int) -> tuple[Tensor, Tensor]:
    """ids and targets [n_rows, seq_len] int64; a target that does not count is -100."""
    rows = [stream.row(0) for _ in range(n_rows)]
    ids = np.stack([row[0] for row in rows]).astype(np.int64)
    learned = np.stack([row[1] for row in rows])
    return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(np.where(learned, ids[:, 1:], -100))


def fastest_experts(recipe: Recipe) -> str:
    """The quicker of transformers' implementations here, each by its second step."""
    seconds = {}
    for name in EXPERTS:
        step = their_step(recipe, name)
        step()
        seconds[name] = timed(step)
        print(f"transformers, {name:<12} {recipe.schedule.tokens_per_step / seconds[name]:8.0f} tokens/s", flush=True)
    return min(seconds, key=seconds.__getitem__)


def timed(step: Step) -> float:
    """Seconds of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def main() -> None:
    """Print each pair of steps, the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=POCKET)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--experts", choices=EXPERTS, help="transformers' experts; default: the faster")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    read = read_recipe(options.recipe)
    schedule = replace(read.schedule, dtype="bf16")
    recipe = replace(read, schedule=schedule, stages=(Stage(1.0, {"random": 1.0}),))
    tokens = schedule.tokens_per_step
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {read.model.n_params / 1e6:.1f} M parameters, {tokens} tokens a step"
    )
    experts = options.experts or fastest_experts(recipe)
    ours, theirs = our_step(recipe), their_step(recipe, experts)
    our_loss, their_loss = ours(), theirs()
    print(f"first loss: octuor {our_loss:.4f}, transformers {their_loss:.4f}")
    if not abs(our_loss - their_loss) < BF16_LOSS:
        raise SystemExit("the two do not train the same model on the same rows")
    pairs = []
    print(f"\n{'tokens/s':>8} {'octuor':>12} {f'transformers ({experts})':>28}")
    for number in range(1, options.steps + 1):
        pairs.append((timed(ours), timed(theirs)))
        print(f"{number:8} {tokens / pairs[-1][0]:12.0f} {tokens / pairs[-1][1]:28.0f}", flush=True)
    our_s, their_s = (median(seconds) for seconds in zip(*pairs, strict=True))
    print(f"{'median':>8} {tokens / our_s:12.0f} {tokens / their_s:28.0f}   ratio {their_s / our_s:.2f}")


if __name__ == "__main__":
    main()
