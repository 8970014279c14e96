"""The report card as one page that needs nothing else: tables, and a map of bits by layer and expert in SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from octuor.tools.pack.report import Report
from octuor.units import format_bytes

CELL_WIDTH, CELL_HEIGHT, MARGIN = 34, 16, 44
# From few bits to many: light to dark, so that it reads in grey and without red or green.
FEW, MANY = (247, 244, 220), (21, 62, 117)
BITS = (2.0, 8.25)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { padding: .15rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid #8894a5; font-weight: 600; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } svg text { font: 10px system-ui, sans-serif; }
p.note { color: #566172; }
"""


def report_html(report: Report, name: str) -> str:
    """The whole page; name is the pack's."""
    about = (
        f"{report.budget}: {report.bits:.3f} bits a weight, {format_bytes(report.weight_bytes)} from "
        f"{format_bytes(report.source_bytes)}. Measured on {report.text}, {report.calibration_tokens} tokens; "
        f"quality {report.quality}."
    )
    body = "\n".join(
        (
            f"<h1>{escape(name)}</h1>\n<p>{escape(about)}</p>",
            "<h2>Beside the source</h2>\n" + _comparison(report),
            "<h2>Where the loss comes from</h2>\n" + _parts(report) + _layers(report),
            "<h2>Bits by layer and expert</h2>\n" + bits_map(report) + _starved(report),
        )
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(name)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _comparison(report: Report) -> str:
    m = report.measured
    rows = [
        ("KL divergence, nats a token", f"{m.divergence:.5f} ± {m.divergence_error:.5f}"),
        ("expected when the formats were chosen", f"{report.expected_loss:.5f}"),
        ("likeliest next token is the same", f"{100 * m.agreement:.2f} %"),
        ("perplexity, source", f"{m.source_perplexity:.4f}"),
        ("perplexity, pack", f"{m.perplexity:.4f}"),
        ("held-out tokens", str(m.n_tokens)),
        ("from the least loss possible with these bytes, at most", f"{100 * report.gap:.3f} %"),
    ]
    note = (
        '<p class="note">The KL that is measured holds the rounding of activations, too, which no choice of formats '
        "changes; the expected one is of weights alone.</p>"
    )
    return table((), rows) + note


def _parts(report: Report) -> str:
    total = report.expected_loss or 1.0
    rows = [
        (
            row.part, format_bytes(row.n_bytes), f"{row.bits:.3f}",
            ", ".join(f"{count} {name}" for name, count in row.formats.items()), f"{row.loss:.6f}",
            f"{100 * row.loss / total:.1f} %",
        )
        for row in report.parts
    ]  # fmt: skip
    return table(("part", "bytes", "bits", "matrices", "expected loss", "share"), rows)


def _layers(report: Report) -> str:
    """A bar for each layer's expected loss."""
    largest = max(report.layer_loss, default=0.0) or 1.0
    width, height = 400, 14
    bars = []
    for n, loss in enumerate(report.layer_loss):
        y = n * height
        bars.append(f'<text x="{MARGIN - 6}" y="{y + 11}" text-anchor="end">{n}</text>')
        bars.append(
            f'<rect x="{MARGIN}" y="{y + 2}" width="{width * loss / largest:.1f}" height="{height - 4}" '
            f'fill="{colour(6.5)}"/>'
        )
        bars.append(f'<text x="{MARGIN + width * loss / largest + 6:.1f}" y="{y + 11}">{loss:.6f}</text>')
    return svg(MARGIN + width + 90, height * len(report.layer_loss), bars, "expected loss by layer")


def bits_map(report: Report) -> str:
    """Layers down, experts across; each cell's title has the formats of gate, up and down."""
    cells = []
    n_experts = len(report.expert_bits[0])
    for e in range(n_experts):
        x = MARGIN + e * CELL_WIDTH + CELL_WIDTH / 2
        cells.append(f'<text x="{x}" y="12" text-anchor="middle">{e}</text>')
    for n, row in enumerate(report.expert_bits):
        y = MARGIN // 2 + n * CELL_HEIGHT
        cells.append(f'<text x="{MARGIN - 6}" y="{y + 12}" text-anchor="end">{n}</text>')
        for e, bits in enumerate(row):
            x = MARGIN + e * CELL_WIDTH
            gate, up, down = report.expert_formats[n][e]
            title = f"layer {n}, expert {e}: gate {gate}, up {up}, down {down}; {report.counts[n][e]} tokens"
            ink = "#fff" if bits > 5 else "#1c2430"
            cells.append(
                f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{CELL_WIDTH - 1}" '
                f'height="{CELL_HEIGHT - 1}" fill="{colour(bits)}"/>'
                f'<text x="{x + CELL_WIDTH / 2}" y="{y + 11}" text-anchor="middle" fill="{ink}">{bits:.2f}</text></g>'
            )
    height = MARGIN // 2 + CELL_HEIGHT * len(report.expert_bits) + 4
    return svg(MARGIN + n_experts * CELL_WIDTH + 4, height, cells, "bits by layer and expert")


def _starved(report: Report) -> str:
    if not report.starved:
        return '<p class="note">No expert was starved of calibration tokens.</p>'
    names = ", ".join(f"{n}.{e}" for n, e in report.starved)
    return f'<p class="note">Too few tokens chose these experts (layer.expert): {names}. Their weights alone count.</p>'


def colour(bits: float) -> str:
    """Of a number of bits, as #rrggbb."""
    share = min(max((bits - BITS[0]) / (BITS[1] - BITS[0]), 0.0), 1.0)
    return "#" + "".join(f"{round(few + share * (many - few)):02x}" for few, many in zip(FEW, MANY, strict=True))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; no head where head is empty."""
    lines = ["<table>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def svg(width: float, height: float, shapes: Iterable[str], label: str) -> str:
    """A drawing with a name for those who listen to pages."""
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">' + "".join(shapes) + "</svg>"
    )
