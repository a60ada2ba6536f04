"""`docs/performance.md`: what the figures say, and nothing that they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.effort import Effort
    from benchmarks.outcome import Outcome

HEAD = """\
# Performance

Measured by [`scripts/bench`](../scripts/bench), which wrote this page; nothing in it is edited by hand. It installs the
peers, starts a Postgres server, runs everything below and checks after each run that the work was done: exit code,
tables or rows made, migrations recorded.

![wall times](performance.svg)
"""

METHOD = """\
## How it is measured

- In rounds, A B C A B C: {short} for starts, {long} for what takes seconds, of slow peers {few} (`runs` says how many).
  Told are medians; a ratio is the median of the ratios within each round, with its quartiles.
- Wall time, CPU time and peak memory are those of the process and its children, taken by a C program of 1 MiB that
  starts it and waits for it (`wait4`). The byte code of Python programs is written before.
- The server is on the same machine, with the settings that initdb chooses and `fsync` on. Each run that applies
  something begins with a database made for it, on disk before the clock starts.
- Everyone connects by TCP with a password (SCRAM) and without TLS, which this server does not have.
- pg-predeploy runs as `python entrypoint.py` with `MIGRATE_LOG_FORMAT=json`, its output going to a file.
- dbmate is npm's binary itself, called as `dbmate --no-dump-schema migrate`. alembic, node-pg-migrate and
  pgmigrate apply all files in one transaction, as they do by default; the others have one for each file.
- The 10 ms line is a TCP proxy on loopback that hands over everything 5 ms later, in order, in either direction.
  The slower disk is a library preloaded into the server that sleeps 2 ms in `fsync` and `fdatasync`.
- The C floor ([`floor.c`](../benchmarks/native/floor.c)) sends many files a message by libpq and remembers their names:
  no lock, no hashes, no log. The naive Python loop ([`naive.py`](../benchmarks/naive.py)) is what one writes in ten
  minutes with psycopg.
"""


def page(outcomes: Sequence[Outcome], machine: Mapping[str, str], effort: Effort) -> str:
    """Return the page."""
    targets = [target for outcome in outcomes for target in outcome.targets]
    met = sum(target.is_met for target in targets)
    return "\n".join(
        [
            HEAD,
            f"## Targets\n\n{met} of {len(targets)} are met.\n\n{table.targets(outcomes)}\n",
            *(section(outcome) for outcome in outcomes),
            METHOD.format(short=effort.short, long=effort.long, few=effort.few),
            "## The machine\n\n" + table.grid([["", ""], *map(list, machine.items())]) + "\n",
        ]
    )


def section(outcome: Outcome) -> str:
    """Return what there is to say of a workload."""
    parts = [f"## {outcome.title[:1].upper()}{outcome.title[1:]}"]
    if outcome.rows:
        parts.append(table.rows(outcome))
    told = [*outcome.notes, *(f"not measured: {name} ({why})" for name, why in outcome.left_out.items())]
    if told:
        parts.append("\n".join(f"- {line}" for line in told))
    return "\n\n".join(parts) + "\n"
