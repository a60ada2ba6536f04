"""Outcomes as tables in Markdown, which is also what a terminal is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.runners import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.outcome import Outcome, Row, Target


def duration(milliseconds: float) -> str:
    """Return a duration with three digits at most."""
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


def number(value: float, unit: str) -> str:
    """Return a figure of a target: a ratio with two digits after the point, a count with none."""
    if unit == "x":
        return f"{value:.3f} x" if value < 0.2 else f"{value:.2f} x"
    return f"{value:.0f}" if not unit else f"{value:.1f} {unit}"


def rows(outcome: Outcome) -> str:
    """Return the table of a workload's figures."""
    extras = list(dict.fromkeys(heading for row in outcome.rows for heading in row.extra))
    ratio = [f"to {outcome.baseline}"] if outcome.baseline else []
    lines = [["", "wall", "CPU", "memory", *ratio, *extras, "runs"]]
    lines += [
        [_bold(row.name), *_costs(row), *_ratio(row, outcome), *_extras(row, extras), str(row.runs)]
        for row in sorted(outcome.rows, key=lambda row: row.wall_ms)
    ]
    return grid(lines)


def targets(outcomes: Sequence[Outcome]) -> str:
    """Return the table of the targets of all workloads, met or not."""
    lines = [["workload", "measured", "target: at most", "found", ""]]
    for outcome in outcomes:
        title = outcome.title
        for target in outcome.targets:
            lines.append(
                [
                    title,
                    target.what,
                    number(target.limit, target.unit),
                    number(target.found, target.unit),
                    verdict(target),
                ]
            )
            title = ""
        if not outcome.targets:
            lines.append([title, "", "", "not measured", ""])
    return grid(lines)


def verdict(target: Target) -> str:
    """Return whether a target is met, in words."""
    return "met" if target.is_met else "**not met**"


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first line is the heading."""
    marks = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]
    return "\n".join([marks[0], "|" + " --- |" * len(lines[0]), *marks[1:]])


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith(OURS) else name


def _costs(row: Row) -> list[str]:
    cpu = "" if row.cpu_ms is None else duration(row.cpu_ms)
    return [duration(row.wall_ms), cpu, "" if row.rss_mib is None else f"{row.rss_mib:.1f} MiB"]


def _ratio(row: Row, outcome: Outcome) -> list[str]:
    if not outcome.baseline:
        return []
    if row.ratio is None or row.name == outcome.baseline:
        return ["1" if row.name == outcome.baseline else ""]
    spread = f" ({row.ratio.lower:.2f} to {row.ratio.upper:.2f})" if row.runs > 1 else ""
    return [f"{row.ratio.median:.2f}{spread}"]


def _extras(row: Row, headings: Sequence[str]) -> list[str]:
    return [row.extra.get(heading, "") for heading in headings]
