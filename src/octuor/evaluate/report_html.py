"""A run as one page that needs nothing else: figures with intervals, Mixtral's own beside, settings, some answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from octuor.evaluate.published import published
from octuor.evaluate.result import Metric, RunResult, TaskResult
from octuor.units import count, format_bytes

SHOWN = 3000  # characters of a prompt or an answer
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.left, th.left { text-align: left; white-space: normal; overflow-wrap: break-word; }
th { border-bottom: 1px solid #8894a5; font-weight: 600; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } p.note { color: #566172; }
pre { background: #f4f6f9; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
summary { cursor: pointer; } svg { vertical-align: middle; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """An HTML document of these parts."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def report_html(result: RunResult) -> str:
    """The whole page of a run."""
    model, machine, run = result.model, result.machine, result.run
    about = (
        f"{model['name']}: {count(model['params'])} parameters, {format_bytes(model['bytes'])}, {model['bits']:.2f} "
        f"bits a weight, {run['cache']} keys and values. On {machine['cpu']}, {machine['threads']} threads, "
        f"{machine['isa']}; {run['seconds']:.0f} s, {run['date']}, seed {run['seed']}."
    )
    body = [f"<p>{escape(about)}</p>", "<h2>Figures</h2>", _figures(result.tasks)]
    body.append(
        "<p class=\"note\">Intervals are at 95 %: Wilson's of shares, the bootstrap's of other means, 1.96 standard "
        "errors where the harness gives no more. The published figures are Mixtral's authors' "
        "(arXiv:2401.04088), whose prompts and readings of answers are not these: they show where the real model "
        "stands, not what this one should reach.</p>"
    )
    body += [_task(task) for task in result.tasks]
    body += ["<h2>Run</h2>", key_values({**run, **{f"model {k}": v for k, v in model.items()}, **machine})]
    return page(f"{model['name']}, evaluated", body)


def interval(metric: Metric, digits: int = 4) -> str:
    """Its bounds as text."""
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.{digits}g} to {metric.high:.{digits}g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = ()) -> str:
    """An HTML table. left: columns that are words. Cells that begin with <svg are drawings."""

    def cell(tag: str, at: int, text: str) -> str:
        words = ' class="left"' if at in left else ""
        return f"<{tag}{words}>{text if text.startswith('<svg') else escape(text)}</{tag}>"

    lines = ["<table>", "<tr>" + "".join(cell("th", at, text) for at, text in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", at, text) for at, text in enumerate(row)) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def key_values(values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]
    return table(("", ""), [(key, text[:SHOWN]) for key, text in rows], left=(1,))


def bar(metric: Metric) -> str:
    """A share with its interval as a line from 0 to 1; "" for figures of other ranges."""
    if metric.low is None or metric.high is None or not 0 <= metric.low <= metric.high <= 1:
        return ""
    width, label = 160, f"{metric.value:.3f}, {interval(metric, 3)}"
    return (
        f'<svg role="img" aria-label="{label}" width="{width + 8}" height="14" viewBox="-4 0 {width + 8} 14">'
        f'<line x1="0" x2="{width}" y1="7" y2="7" stroke="#d5dae1"/>'
        f'<line x1="{width * metric.low:.1f}" x2="{width * metric.high:.1f}" y1="7" y2="7" stroke="#153e75" '
        f'stroke-width="3"/><circle cx="{width * metric.value:.1f}" cy="7" r="4" fill="#153e75"/></svg>'
    )


def _figures(tasks: Sequence[TaskResult]) -> str:
    rows = []
    for task in tasks:
        for metric in task.metrics:
            known = published(task.task, metric.name)
            beside = "" if known is None else f"{known.value:g} ({known.how})"
            shots = task.settings.get("shots")
            rows.append(
                (
                    task.task, metric.name, f"{metric.value:.4g}", interval(metric), bar(metric), str(metric.n),
                    "" if shots is None else str(shots), beside, f"{task.seconds:.1f}",
                )
            )  # fmt: skip
    head = ("task", "metric", "value", "95 %", "0 to 1", "documents", "shots", "Mixtral, published", "seconds")
    return table(head, rows, left=(1, 7))


def _task(task: TaskResult) -> str:
    parts = [f"<h2>{escape(task.task)}</h2>\n<p>{escape(task.about)}</p>"]
    if task.settings:
        parts.append(f"<details><summary>settings</summary>{key_values(task.settings)}</details>")
    for example in task.examples:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in example.scores.items())
        expected = f"\n<p>Expected:</p>\n<pre>{escape(example.expected[:SHOWN])}</pre>" if example.expected else ""
        parts.append(
            f"<details><summary>{escape(f'{example.id}: {scores}' if scores else example.id)}</summary>"
            f"<p>Prompt:</p>\n<pre>{escape(_shorter(example.prompt))}</pre>\n<p>Answer:</p>\n"
            f"<pre>{escape(_shorter(example.answer))}</pre>{expected}</details>"
        )
    return "\n".join(parts)


def _shorter(text: str) -> str:
    """A text as it is, or its two ends."""
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}\n[... {len(text) - SHOWN} characters ...]\n{text[-half:]}"
