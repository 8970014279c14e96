"""A run of the command, small enough to be killed and begun again many times: a tiny model, tiny data, a recipe."""

from __future__ import annotations

import json
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from octuor.config import ModelConfig
from octuor.tools.synth import synth

CONFIG = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=64, vocab_size=400, n_experts=4,
    rope_theta=1e4, max_seq_len=128,
)  # fmt: skip
BIRDS = ("robin", "heron", "swift", "crane", "raven", "stork", "finch", "eagle")
PLACES = ("tree", "lake", "tower", "field", "river", "garden")


def talks(n: int) -> list[dict[str, object]]:
    """Questions whose answers can be learned."""
    rows: list[dict[str, object]] = []
    for i in range(n):
        bird, place = BIRDS[i % len(BIRDS)], PLACES[i % len(PLACES)]
        asked = {"role": "user", "content": f"Where does the {bird} sing, number {i}?"}
        answer = {"role": "assistant", "content": f"The {bird} sings by the old {place}."}
        rows.append({"messages": [asked, answer]})
    return rows


def preferences(n: int) -> list[dict[str, object]]:
    """The polite answer is the better one."""
    return [
        {
            "prompt": f"Where does the {BIRDS[i % 8]} sing, number {i}?",
            "chosen": f"By the old {PLACES[i % 6]}, my friend.",
            "rejected": f"Go and look by the {PLACES[i % 6]}.",
        }
        for i in range(n)
    ]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(path: Path, row: str = "q8") -> Path:
    """A random pack with a tokenizer of 400 pieces, for most of a step would go into 32,000."""
    sentences = [text for talk in talks(48) for text in str(talk).split("'") if " " in text]
    words = path.with_suffix(".model")
    with words.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=file, model_type="bpe", vocab_size=CONFIG.vocab_size,
            hard_vocab_limit=False, byte_fallback=True, minloglevel=2,
        )  # fmt: skip
    return synth(path, CONFIG, row, tokenizer=words).path


def recipe_text(model: Path, more: str = "", **schedule: object) -> str:
    """A recipe over train.jsonl and valid.jsonl beside it; `more`: whole tables."""
    settings = {
        "steps": 24, "tokens_per_step": 160, "tokens_at_once": 96, "learning_rate": 1e-2, "dtype": "f32",
        "validate_every": 6, "save_every": 2, **schedule,
    }  # fmt: skip
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    data = '[data]\ntrain = ["train.jsonl"]\nvalidation = ["valid.jsonl"]\nmax_tokens = 100\n'
    return f"{data}\n[schedule]\n{lines}\n\n{more}".replace("MODEL", str(model))
