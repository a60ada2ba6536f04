"""A picture of the outcomes: a panel for each workload, a bar for each contender, as an SVG for light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.runners import DBMATE, FLOOR, OURS
from benchmarks.table import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.outcome import Outcome, Row

WIDTH, MARGIN, GAP = 900, 20, 30
LABEL, FIGURE = 180, 62  # beside a bar: who before it, how long after it
FAILED = 100  # and how many failed
LINE, BAR = 19, 12
HEAD = 34  # above the bars of a panel
STYLE = """
text { font: 12px ui-sans-serif, system-ui, "DejaVu Sans", sans-serif; fill: #1c2733 }
.title { font-weight: 600 } .name { text-anchor: end } .soft { fill: #5a6875 }
.paper { fill: #ffffff } .ours { fill: #1f6feb } .floor { fill: #7b8794 } .peer { fill: #b8c2cc }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9aa7b4 }
.paper { fill: #0d1117 } .ours { fill: #58a6ff } .floor { fill: #8b96a2 } .peer { fill: #48525e }
}
"""


def scale(value: float, most: float, length: float) -> float:
    """Return how long the bar of a value is where that of `most` is `length`: linear, from zero, one pixel at least."""
    return max(value / most * length, 1.0)


def plot(outcomes: Sequence[Outcome]) -> str:
    """Return the SVG: two columns of panels, each with its own scale, which begins at zero."""
    column = (WIDTH - 2 * MARGIN - GAP) / 2
    tops = [MARGIN + 26.0, MARGIN + 26.0]
    panels = []
    for outcome in (outcome for outcome in outcomes if outcome.rows):
        side = 0 if tops[0] <= tops[1] else 1
        panels.append(_panel(outcome, MARGIN + side * (column + GAP), tops[side], column))
        tops[side] += HEAD + LINE * len(outcome.rows) + 14
    height = max(tops) + MARGIN - 10
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    legend = "Wall time, median; shorter is better. Each panel has a scale of its own that begins at zero."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>Wall time of pg-predeploy and its peers</title>",
            f"<style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            f'<text class="soft" x="{MARGIN}" y="{MARGIN + 8}">{legend}</text>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(outcome: Outcome, left: float, top: float, width: float) -> str:
    ordered = sorted(outcome.rows, key=lambda row: row.wall_ms)
    most = max(row.wall_ms for row in ordered)
    length = width - LABEL - FIGURE - (FAILED if any(_failed(row) for row in ordered) else 0)
    lines = [f'<text class="title" x="{left:.0f}" y="{top + 18:.0f}">{escape(outcome.title.replace("`", ""))}</text>']
    for place, row in enumerate(ordered):
        lines.append(_bar(row, left, top + HEAD + place * LINE, scale(row.wall_ms, most, length)))
    return "\n".join(lines)


def _bar(row: Row, left: float, top: float, length: float) -> str:
    kind = "ours" if row.name.startswith(OURS) else "floor" if row.name.startswith(FLOOR) else "peer"
    weight = ' font-weight="600"' if kind == "ours" or row.name == DBMATE else ""
    name = row.name.replace(f"{OURS}, MIGRATE_COMMIT", "MIGRATE_COMMIT")
    figure = duration(row.wall_ms) + _failed(row)
    baseline = top + BAR - 2
    return (
        f'<text class="name" x="{left + LABEL - 6:.0f}" y="{baseline:.0f}"{weight}>{escape(name)}</text>'
        f'<rect class="{kind}" x="{left + LABEL:.0f}" y="{top:.0f}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        f'<text class="soft" x="{left + LABEL + length + 6:.1f}" y="{baseline:.0f}">{figure}</text>'
    )


def _failed(row: Row) -> str:
    """Return how many of a crowd failed, if any did."""
    count = row.extra.get("failed", "0")
    return "" if count.startswith("0") else f", {count} failed"
