"""What tuning costs at the full width of 8x7B.

    python benchmarks/tuning.py PACK [PACK...] [--folder FOLDER] [--tokens N] [--steps N] [--threads N]

QLoRA on attention over each pack, and over FOLDER, the same weights as a Hugging Face folder of bfloat16, with
transformers, peft and bitsandbytes (nf4 as its users set it: transformers 5 quantizes nn.Linear, which of a Mixtral is
the attention). Each in a process of its own, one after another: seconds a step, the median after the first, and the
most memory held at once, apart for what is private and what is mapped from files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from octuor.checkpoint import open_checkpoint
from octuor.tune.data import Dataset, Split
from octuor.tune.encode import Example, Piece
from octuor.tune.loop import tune
from octuor.tune.recipe import Data, Method, Schedule, TuneRecipe

RANK = 16
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of each step, the losses, and the most bytes held."""

    what: str
    step_s: list[float]
    losses: list[float]
    private_bytes: int
    mapped_bytes: int


class Memory:
    """The most private and mapped memory this process holds while the block runs."""

    def __enter__(self) -> Memory:
        self.private = self.mapped = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            private, mapped = (int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
            self.private, self.mapped = max(self.private, private), max(self.mapped, mapped)
            if self._is_over.wait(SAMPLE_S):
                return


# ---- slice ---------------------------------------------------------------------------------------


def random_ids(steps: int, tokens: int) -> np.ndarray:
    """The same ids for both: [steps, tokens + 1]."""
    return np.random.default_rng(0).integers(3, 32000, (steps, tokens + 1)).astype(np.int32)


def our_cost(pack: Path, tokens: int, steps: int, threads: int) -> Cost:
    """`octuor tune` of attention over a pack."""
    rows = random_ids(steps, tokens)
    examples = tuple(Example((Piece(ids, np.ones(len(ids), dtype=bool)),)) for ids in rows)
    split = Split((), examples, (), tuple(len(ids) for ids in rows))
    recipe = TuneRecipe(
        Method(str(pack), rank=RANK, alpha=RANK), Data(("random",)),
        Schedule(tokens_per_step=tokens, tokens_at_once=tokens, shape="constant", warmup_share=0, save_every=10**6),
    )  # fmt: skip
    out = pack.parent / f"{pack.stem}-run"
    seconds, found, began = list[float](), list[float](), time.perf_counter()

    def on_step(metrics: object, _: int) -> None:
        nonlocal began
        seconds.append(time.perf_counter() - began)
        found.append(getattr(metrics, "loss"))  # noqa: B009
        began = time.perf_counter()

    with Memory() as memory:
        tune(
            recipe, open_checkpoint(pack), Dataset(split, Split((), (), (), ())), out, on_step=on_step, threads=threads
        )
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
    return Cost(f"octuor, {pack.name}", seconds, found, memory.private, memory.mapped)


def their_cost(folder: Path, tokens: int, steps: int, threads: int) -> Cost:
    """peft's LoRA of attention over transformers' model, attention in nf4 by bitsandbytes."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(threads)
    with Memory() as memory:
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=nf4, device_map="cpu", experts_implementation="eager"
        )
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
        model = get_peft_model(
            model,
            LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
        )
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=2e-4, fused=True)
        model.train()
        seconds, found = [], []
        for ids in torch.from_numpy(random_ids(steps, tokens).astype(np.int64)):
            began = time.perf_counter()
            loss = model(input_ids=ids[None], labels=ids[None], use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
            found.append(float(loss.detach()))
    return Cost(f"transformers + peft + bitsandbytes, {folder.name}", seconds, found, memory.private, memory.mapped)


def apart(kind: str, path: Path, arguments: argparse.Namespace) -> Cost:
    """The same in a process of its own."""
    command = [
        sys.executable, __file__, "--one", kind, str(path), "--tokens", str(arguments.tokens), "--steps",
        str(arguments.steps), "--threads", str(arguments.threads),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def compare(arguments: argparse.Namespace) -> None:
    """Print what each costs."""
    runs = [("ours", pack) for pack in arguments.packs]
    runs += [("theirs", arguments.folder)] if arguments.folder else []
    print(f"{arguments.tokens} tokens a step, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'s a step':>9} {'tokens/s':>9} {'private GB':>11} {'mapped GB':>10} {'first loss':>11}")
    for kind, path in runs:
        cost = apart(kind, path, arguments)
        step = median(cost.step_s[1:] or cost.step_s)
        print(
            f"{step:>9.2f} {arguments.tokens / step:>9.1f} {cost.private_bytes / 1e9:>11.2f} "
            f"{cost.mapped_bytes / 1e9:>10.2f} {cost.losses[0]:>11.4f}  {cost.what}",
            flush=True,
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path, nargs="*")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)  # what `apart` runs
    arguments = parser.parse_args()
    if arguments.one:
        kind, path = arguments.one
        cost = our_cost if kind == "ours" else their_cost
        print(json.dumps(asdict(cost(Path(path), arguments.tokens, arguments.steps, arguments.threads))))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
