"""Formats results as Markdown tables, as `docs/performance.md` and as `docs/performance.svg`."""

from __future__ import annotations

import platform
import tempfile
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import psycopg

from benchmarks.install import NPM, PYPI, SUITE, shell
from benchmarks.runners import FLOOR, PG_PREDEPLOY
from tests.support.postgres_server import find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.measure import Result
    from benchmarks.workloads import Target

HEAD = """\
# Performance

[`scripts/bench`](../scripts/bench) generates this page; do not edit it by hand. The script installs the other migration
runners, starts a Postgres server, runs every workload below, and checks the result of each run: the exit code, the
tables or rows, and the recorded migrations.

![wall times](performance.svg)
"""

METHOD = """\
## How it is measured

- The runners take turns in rounds (A B C A B C): {} rounds for no-op starts, {} for everything else.
  Figures are medians. "vs dbmate" is the wall time divided by dbmate's in the same round: the median of these ratios,
  with the quartiles in parentheses.
- Wall time, CPU time and peak memory include the process and its children. A C program of 1 MiB starts the process and
  measures it with `wait4`. Python programs are compiled to byte code beforehand.
- The server runs on the same machine, with initdb's default settings and `fsync` on. Each run that applies migrations
  starts with a new database that has been flushed to disk.
- All runners connect over TCP with a password (SCRAM) and without TLS, because this server does not support TLS.
- pg-predeploy runs as `python entrypoint.py` with `MIGRATE_LOG_FORMAT=json`, and its output goes to a file.
- dbmate runs as `dbmate --no-dump-schema migrate`, using the binary from the npm package without npm's wrapper script.
- alembic and node-pg-migrate apply all files in one transaction, which is their default; the other runners use one
  transaction per file. "node-pg-migrate, waiting" runs with `--advisory-lock-mode wait`: it waits for another instance
  instead of failing.
- The 10 ms latency comes from a TCP proxy on loopback that delays all data by 5 ms in each direction.
- The minimal C runner ([`floor.c`](../benchmarks/native/floor.c)) uses libpq to send many files in one message and
  records their names. It takes no lock, computes no hashes and writes no log.
"""

STYLE = """
text { font: 12px ui-sans-serif, system-ui, "DejaVu Sans", sans-serif; fill: #1c2733 }
.title { font-weight: 600 } .name { text-anchor: end } .soft { fill: #5a6875 }
.paper { fill: #ffffff } .product { fill: #1f6feb } .floor { fill: #7b8794 } .peer { fill: #b8c2cc }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9aa7b4 }
.paper { fill: #0d1117 } .product { fill: #58a6ff } .floor { fill: #8b96a2 } .peer { fill: #48525e }
}
"""


def page(results: dict[str, Result], targets: list[Target], machine: dict[str, str], rounds: Sequence[int]) -> str:
    """Return `docs/performance.md`."""
    table = targets_table(results, targets)
    parts = [HEAD, f"## Targets\n\n{table.count('| met |')} of {len(targets)} are met.\n\n{table}\n"]
    parts += [section(result) for result in results.values()]
    parts.append(METHOD.format(*rounds))
    parts.append(f"## The machine\n\n{_table([['', ''], *machine.items()])}\n")
    return "\n".join(parts)


def targets_table(results: dict[str, Result], targets: list[Target]) -> str:
    """Return a table of the targets, with the measured value and whether the target is met."""
    lines: list[Sequence[str]] = [["workload", "figure", "target (at most)", "measured", ""]]
    for target in targets:
        found = target.found(results[target.workload])
        number = "not measured" if found is None else _number(found, target.unit)
        verdict = "" if found is None else "met" if found <= target.limit else "**not met**"
        limit = _number(target.limit, target.unit)
        lines.append([results[target.workload].title, target.figure, limit, number, verdict])
    return _table(lines)


def section(result: Result) -> str:
    """Return a workload's table, sorted from the fastest runner to the slowest, and its notes."""
    baseline = result.baseline if result.baseline in result.costs else None
    heading = ["", "wall", "CPU", "memory", *([f"vs {baseline}"] if baseline else []), *result.columns, "runs"]
    lines = [heading]
    for name in _fastest_first(result):
        cost = result.median(name)
        cells = [f"**{name}**" if name == PG_PREDEPLOY else name]
        cells += [duration(cost.wall_ms), duration(cost.cpu_ms), f"{cost.memory_mib:.1f} MiB"]
        if baseline:
            lower, middle, upper = result.ratio(name, baseline)
            spread = f" ({lower:.2f} to {upper:.2f})" if len(result.costs[name]) > 1 else ""
            cells.append("1" if name == baseline else f"{middle:.2f}{spread}")
        cells += [f"{column[name]:.0f}" if name in column else "" for column in result.columns.values()]
        lines.append([*cells, str(len(result.costs[name]))])
    notes = [*result.notes, *(f"not measured: {name} ({why})" for name, why in result.not_measured.items())]
    parts = [f"## {result.title}", _table(lines) if result.costs else "", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def duration(milliseconds: float) -> str:
    """Format a duration with about three significant digits."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.{1 if milliseconds >= 10_000 else 2}f} s"
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1}f} ms"


def plot(results: Iterable[Result]) -> str:
    """Return a plot of the wall times as SVG: two columns of panels, each with its own scale starting at zero."""
    tops = [46, 46]
    panels = []
    for result in results:
        if result.costs:
            side = tops.index(min(tops))
            panels.append(_panel(result, 20 + side * 445, tops[side]))
            tops[side] += 48 + 19 * len(result.costs)
    legend = "Wall time, median; shorter is better. Each panel has its own scale, starting at zero."
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{max(tops)}" viewBox="0 0 900 {max(tops)}" role="img">
<title>Wall time of pg-predeploy and other migration runners</title>
<style>{STYLE}</style>
<rect class="paper" width="100%" height="100%"/>
<text class="soft" x="20" y="28">{legend}</text>
{"".join(panels)}</svg>
"""


def _panel(result: Result, left: int, top: int) -> str:
    lines = [f'<text class="title" x="{left}" y="{top + 18}">{escape(result.title.replace("`", ""))}</text>\n']
    slowest = max(result.median(name).wall_ms for name in result.costs)
    failed = result.columns.get("failed", {})
    for place, name in enumerate(_fastest_first(result)):
        x, y = left + 180, top + 34 + place * 19
        wall_ms = result.median(name).wall_ms
        width = max(wall_ms / slowest * (100 if failed else 170), 1)
        kind = {PG_PREDEPLOY: "product", FLOOR: "floor"}.get(name, "peer")
        figure = duration(wall_ms) + (f", {failed[name]:.0f} failed" if failed.get(name) else "")
        lines.append(
            f'<text class="name" x="{x - 6}" y="{y + 10}">{escape(name)}</text>'
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="12" rx="2"/>'
            f'<text class="soft" x="{x + width + 6:.1f}" y="{y + 10}">{figure}</text>\n'
        )
    return "".join(lines)


def machine() -> dict[str, str]:
    """Return the hardware and software versions that the figures depend on."""
    peers = {**NPM, **PYPI, "sql-migrate": f"from Debian {SUITE}"}
    return {
        "processor": shell("echo $(nproc) x $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"),
        "memory": shell("awk '/^MemTotal/ {printf \"%.1f GiB\", $2 / 1048576}' /proc/meminfo"),
        "system": shell(". /etc/os-release; echo $PRETTY_NAME, Linux $(uname -r)"),
        "file system of the data": shell(f"df --output=fstype '{tempfile.gettempdir()}' | tail -n 1"),
        "load before the first run": shell("cut -d ' ' -f 1-3 /proc/loadavg"),
        "Postgres": shell(f"'{find_binaries()}/postgres' --version"),
        "Python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__}, libpq {psycopg.pq.version()})",
        "node": shell("node --version || echo none"),
        "docker": shell("docker --version || echo none"),
        "other runners": ", ".join(f"{name} {version}" for name, version in sorted(peers.items()) if name != "pg"),
    }


def _fastest_first(result: Result) -> list[str]:
    return sorted(result.costs, key=lambda name: result.median(name).wall_ms)


def _number(value: float, unit: str) -> str:
    return {"x": f"{value:.2f} x", "": f"{value:.0f}"}.get(unit, f"{value:.1f} {unit}")


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first line is the heading."""
    rows = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]])
