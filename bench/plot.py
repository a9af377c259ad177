"""Draws results of bench.py as an SVG: python bench/plot.py bench/h200.json docs/plots/h200.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLORS = {"laspc": "#2563eb", "fla": "#9ca3af"}
BAR, GAP, LEFT, WIDTH = 14, 10, 190, 720


def bars(rows: list[dict], key: str, top: int, scale: float) -> tuple[list[str], int]:
    """A labelled bar for each row; what refused is said in words."""
    out = []
    rules = list(dict.fromkeys((row["rule"], row["shape"]) for row in rows))
    for rule, shape in rules:
        out.append(f'<text x="{LEFT - 8}" y="{top + 18}" text-anchor="end">{rule}  {shape}</text>')
        for row in (r for r in rows if (r["rule"], r["shape"]) == (rule, shape)):
            ms = row[key]
            if ms is None:
                out.append(f'<text x="{LEFT}" y="{top + 11}" fill="#6b7280">{row["of"]}: refused</text>')
            else:
                out.append(
                    f'<rect x="{LEFT}" y="{top}" width="{ms * scale:.1f}" height="{BAR - 2}" '
                    f'fill="{COLORS[row["of"]]}"/><text x="{LEFT + ms * scale + 6:.1f}" y="{top + 11}">'
                    f'{row["of"]} {ms:.2f} ms</text>'
                )
            top += BAR
        top += GAP
    return out, top


def main(source: str, target: str) -> None:
    report = json.loads(Path(source).read_text())
    rows = [row for row in report["rows"] if "forward_ms" in row]
    body, top = [], 30
    for key, title in (("forward_ms", "forward"), ("forward_backward_ms", "forward and backward")):
        most = max(row[key] for row in rows if row[key] is not None)
        body.append(f'<text x="{LEFT}" y="{top}" font-weight="bold">{title}, {report["device"]}, bf16</text>')
        more, top = bars(rows, key, top + 12, (WIDTH - LEFT - 130) / most)
        body += more
        top += 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" font-size="11">'
    Path(target).write_text("\n".join([head, *body, "</svg>"]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
