"""octuor generate: continue a text or a list of token ids, and say how fast."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.experts.store import StoreStats


def main(
    model: options.ModelArgument = None,
    prompt: Annotated[Optional[str], typer.Option(help="Text to continue; default: stdin.")] = None,  # noqa: UP045
    ids: Annotated[Optional[str], typer.Option(help="Token ids to continue, as in '1 733 16289'.")] = None,  # noqa: UP045
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: Annotated[Optional[list[str]], typer.Option(help="End where this text would come; repeatable.")] = None,  # noqa: UP045
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = 128,
    context: options.Context = None,
    threads: options.Threads = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    adapter: options.Adapter = None,
    stats: Annotated[bool, typer.Option(help="Measure this machine's memory and print speeds on stderr.")] = False,
    as_json: options.Json = False,
) -> None:
    """Continue a text or token ids."""
    from octuor.api import load
    from octuor.cli.progress import PromptBar
    from octuor.sampling import SamplingParams

    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed, max_tokens=max_tokens,
        repetition_penalty=repetition_penalty, stop=tuple(stop or ()),
    )  # fmt: skip
    bar = PromptBar()
    with bar:
        loaded = load(
            model, threads=threads, context=context, resident=resident, memory=memory, adapter=adapter,
            on_load=bar.loading,
        )  # fmt: skip
    has_text = loaded.checkpoint.tokenizer is not None
    tokens = []
    given = _prompt(prompt, ids)
    with bar:
        generation = loaded.generate(given, params, on_prefill=bar)
        for token in generation:
            tokens.append(token)
            if not as_json:
                print(token.text if has_text else f"{token.id} ", end="", flush=True)
    report: dict[str, Any] = {}
    if stats or as_json:
        report = _speeds(
            generation.usage, loaded.bytes_per_token, measure=stats and memory is None, threads=threads
        )  # the probe takes a gigabyte
    if as_json:
        usage = {"prompt_tokens": generation.usage.prompt_tokens, "completion_tokens": len(tokens)}
        print(
            json.dumps(
                {
                    "text": generation.text,
                    "ids": [token.id for token in tokens],
                    "logprobs": [token.logprob for token in tokens],
                    "finish_reason": generation.finish_reason,
                    "usage": usage,
                    "speed": report,
                }
            )
        )
    else:
        print()
    if stats:
        _print_speeds(report)
        if loaded.store is not None:
            _print_store(loaded.store.stats())


def _prompt(text: str | None, ids: str | None) -> str | list[int]:
    from octuor.errors import RequestError

    if ids is None:
        return sys.stdin.read() if text is None else text
    if text is not None:
        raise RequestError("prompt: expected --prompt or --ids, found both; drop one")
    try:
        return [int(word) for word in ids.replace(",", " ").split()]
    except ValueError as error:
        raise RequestError(f"--ids: expected whole numbers, found {ids!r}") from error


def _speeds(usage: Any, bytes_per_token: int, *, measure: bool, threads: int | None) -> dict[str, float]:
    """Tokens a second of prompt and answer; the answer's GB/s and its share of what memory gives."""
    computed = usage.prompt_tokens - usage.cached_tokens
    decoded = usage.completion_tokens - 1  # the first token comes with the prompt
    report = {
        "first_token_s": usage.prefill_s,
        "prompt_tokens_per_s": computed / usage.prefill_s if usage.prefill_s else 0.0,
        "tokens_per_s": decoded / usage.decode_s if usage.decode_s and decoded else 0.0,
    }
    report["gb_per_s"] = report["tokens_per_s"] * bytes_per_token / 1e9
    if measure:
        from octuor.ops.native import read_bandwidth_gb_s

        report["read_gb_per_s"] = read_bandwidth_gb_s(threads)
        report["share_of_bandwidth"] = report["gb_per_s"] / report["read_gb_per_s"]
    return report


def _print_store(stats: StoreStats) -> None:
    print(
        f"experts: {stats.hits} found in memory, {stats.misses} not ({stats.in_flight} of them on their way), "
        f"{stats.read_bytes / 1e9:.2f} GB read, {stats.wait_s:.2f} s waited for; {stats.pool_bytes / 1e9:.2f} GB held, "
        f"by layer {' '.join(map(str, stats.held))}",
        file=sys.stderr,
    )


def _print_speeds(report: dict[str, float]) -> None:
    line = (
        f"prompt {report['prompt_tokens_per_s']:.1f} tokens/s, first token after {report['first_token_s']:.2f} s; "
        f"answer {report['tokens_per_s']:.2f} tokens/s, {report['gb_per_s']:.1f} GB/s of weights"
    )
    if "share_of_bandwidth" in report:
        most = f"{report['read_gb_per_s']:.1f} GB/s that reading memory reaches"
        line += f", {report['share_of_bandwidth']:.0%} of the {most}"
    print(line, file=sys.stderr)
