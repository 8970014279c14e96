"""What structured answers cost: compiling a grammar, and a mask for each token.

    python benchmarks/grammar.py [--model MODEL] [--tokens N]

Masks are those of random answers: at each step an allowed id is drawn at random and taken, and mask and advance are
timed apart. The first compile of a grammar is in a child process and in this one; the second finds it in the cache.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import octuor
from octuor.grammar import (
    NO_TOOLS,
    TEXT,
    AnswerFormat,
    GrammarCompiler,
    GrammarMatcher,
    ToolUse,
    read_response_format,
    read_tools,
)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "minimum": 0, "maximum": 3},
        "mail": {"type": "string", "format": "email"},
        "kind": {"enum": ["friend", "colleague", "stranger"]},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
    },
    "required": ["name", "born", "kind"],
}
TOOLS = [{"name": f"function_{n}", "parameters": PERSON} for n in range(16)]
ITEM = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}, "required": ["x"]}
LARGE = {"type": "object", "properties": {f"p{n}": ITEM for n in range(400)}}


def cases() -> dict[str, tuple[AnswerFormat, ToolUse]]:
    """Label to what a request asks for."""

    def schema(value: Any) -> tuple[AnswerFormat, ToolUse]:
        return read_response_format({"type": "json", "value": value}), NO_TOOLS

    return {
        "json_object": (read_response_format({"type": "json_object"}), NO_TOOLS),
        "a string": schema({"type": "string"}),
        "a person": schema(PERSON),
        "enum of 5,000": schema({"enum": [f"value {n}" for n in range(5000)]}),
        "400 properties": schema(LARGE),
        "pattern, bounded": schema({"type": "string", "pattern": r"^(\w+\s?){1,40}$", "maxLength": 200}),
        "regex": (read_response_format({"type": "regex", "value": r"[A-Z][a-z]+( [a-z]+){3,20}\."}), NO_TOOLS),
        "16 tools, auto": (TEXT, read_tools(TOOLS)),
        "16 tools, required": (TEXT, read_tools(TOOLS, "required")),
    }


def walk(matcher: GrammarMatcher, eos_id: int, n_tokens: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Seconds of mask and advance for each token of one random answer."""
    times = []
    for _ in range(n_tokens):
        began = time.perf_counter()
        mask = matcher.mask()
        masked = time.perf_counter()
        mask[eos_id] = False
        allowed = np.flatnonzero(mask)
        if not len(allowed):
            break
        token_id = int(rng.choice(allowed))
        between = time.perf_counter()
        matcher.advance(token_id)
        times.append((masked - began, time.perf_counter() - between))
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pack, a folder or a Hub id; default: the pocket model")
    parser.add_argument("--tokens", type=int, default=3000, help="masks a row")
    options = parser.parse_args()
    model = octuor.load(options.model)
    tokenizer = model.tokenizer
    began = time.perf_counter()
    compiler = GrammarCompiler(tokenizer, model.config.vocab_size)
    print(f"vocabulary of {model.config.vocab_size:,}: {1e3 * (time.perf_counter() - began):.0f} ms")
    began = time.perf_counter()
    compiler.json_schema({"const": 0})
    print(f"first grammar, with the child's start: {1e3 * (time.perf_counter() - began):.0f} ms\n")
    print(f"{'':20} {'compile ms':>10} {'again ms':>9} {'mask µs':>8} {'p99':>7} {'most':>7} {'advance µs':>10}")
    rng = np.random.default_rng(0)
    for label, (answer_format, use) in cases().items():
        spent = []
        for _ in range(2):
            began = time.perf_counter()
            grammar = compiler.compile(answer_format, use)
            spent.append(1e3 * (time.perf_counter() - began))
        assert grammar is not None
        times: list[tuple[float, float]] = []
        while len(times) < options.tokens:
            times += walk(grammar.matcher(), tokenizer.eos_id, 200, rng)
        masks, advances = 1e6 * np.array(times).T
        print(
            f"{label:20} {spent[0]:10.1f} {spent[1]:9.2f} {np.median(masks):8.0f} {np.percentile(masks, 99):7.0f} "
            f"{masks.max():7.0f} {np.median(advances):10.1f}",
            flush=True,
        )
    compiler.close()


if __name__ == "__main__":
    main()
