"""Workloads that find nothing to do: what every deploy, every pod pays."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from benchmarks import migrations
from benchmarks.effort import FULL, OTHERS
from benchmarks.line import Line
from benchmarks.outcome import Outcome, Target
from benchmarks.pairs import play
from benchmarks.pending import ROUND_TRIP_S
from benchmarks.process import Failed, measure
from benchmarks.runners import DBMATE, FLOOR, NAIVE, OURS, RUNNERS, Call
from benchmarks.stage import databases
from tests.support.postgres_server import find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.effort import Effort
    from benchmarks.migrations import Pending
    from benchmarks.process import Cost
    from benchmarks.stage import Stage

INTERPRETER, DRIVER = "python -c pass", "python -c 'import psycopg'"
EVERYONE = (OURS, DBMATE, FLOOR, *OTHERS)

# How the tables of runners come to hold what nobody wants to wait for; %s: the last number.
_NAME = "lpad(n::text, 5, '0') || '_note_' || n"
_FILLS = {
    FLOOR: f"INSERT INTO _floor SELECT {_NAME} || '.sql' FROM generate_series(2, %s) n",
    NAIVE: f"INSERT INTO _naive SELECT {_NAME} || '.sql' FROM generate_series(2, %s) n",
    DBMATE: "INSERT INTO schema_migrations SELECT lpad(n::text, 5, '0') FROM generate_series(2, %s) n",
    "sql-migrate": f"INSERT INTO gorp_migrations SELECT {_NAME} || '.sql', now() FROM generate_series(2, %s) n",
    "node-pg-migrate": f"INSERT INTO pgmigrations (name, run_on) SELECT {_NAME}, now() FROM generate_series(2, %s) n",
}


def start(stage: Stage, effort: Effort) -> Outcome:
    """Measure the whole process with one applied file, beside the interpreter and psql alone."""
    outcome = Outcome("start", "no-op start, 1 applied file, whole process")
    pending = migrations.heavy(1)
    others: dict[str, Callable[[], Cost]] = {
        INTERPRETER: partial(measure, Call([sys.executable, "-c", "pass"])),
        DRIVER: partial(measure, Call([sys.executable, "-c", "import psycopg"])),
    }
    if psql := _psql():
        query = "SELECT 1 FROM t_1"
        others["psql"] = lambda: measure(Call([psql, "-qAtXc", query, stage.dsn(database)]))
    with Applied(stage, effort, outcome, EVERYONE, pending) as applied:
        database = applied.databases[OURS]
        runs = {name: applied.run(name) for name in applied.databases}
        rounds = play({**runs, **others}, effort.short, effort.few * 3, (*FULL, *others), warm=True)
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 3.0)
    outcome.add_target(f"wall time to `{DRIVER}`", rounds, OURS, DRIVER, 0.60)
    if ours := outcome.row(OURS):
        outcome.targets.append(Target("memory", ours.rss_mib or 0.0, 32, "MiB"))
    return outcome


def start_line(stage: Stage, effort: Effort) -> Outcome:
    """Measure the same over a line of 10 ms, and count the round trips."""
    outcome = Outcome("start-line", "no-op start, 1 applied file, 10 ms line")
    trips = {}
    with Applied(stage, effort, outcome, EVERYONE, migrations.heavy(1)) as applied:
        with Line(stage.server.port, ROUND_TRIP_S) as line:
            runs = {name: applied.run(name, line.port) for name in applied.databases}
            rounds = play(runs, effort.short, effort.few * 3, FULL, warm=True)
        for name in rounds.costs:
            with Line(stage.server.port, 0.0) as line:
                applied.run(name, line.port)()
            trips[name] = line.round_trips
    outcome.add_rounds(rounds, DBMATE)
    outcome.rows = [replace(row, extra={"round trips": str(trips[row.name])}) for row in outcome.rows]
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 1.0)
    if OURS in trips:
        outcome.notes.append("a login takes three round trips (start, two of SCRAM); connecting is not delayed")
        outcome.targets.append(Target("round trips, the login's three among them", trips[OURS], 4, ""))
    return outcome


def start_many(stage: Stage, effort: Effort) -> Outcome:
    """Measure a no-op with 10,000 applied files."""
    pending = migrations.light(effort.size(10_000))
    outcome = Outcome("start-many", f"no-op start, {len(pending.migrations):,} applied files")
    names = (OURS, DBMATE, FLOOR, NAIVE, "sql-migrate", "node-pg-migrate")
    with Applied(stage, effort, outcome, names, pending) as applied:
        runs = {name: applied.run(name) for name in applied.databases}
        rounds = play(runs, effort.short, effort.few * 3, FULL, warm=True)
    outcome.notes.append("pg-predeploy verifies the hash of every file, the naive loop and the floor only know names")
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 3.0)
    return outcome


class Applied:
    """A database for each contender in which it has applied everything; checked again in the end.

    Where a runner would take minutes for that, it applies the first file and its table is filled with the rest.
    `wrap` makes of a contender's process another that does the same.
    """

    def __init__(
        self,
        stage: Stage,
        effort: Effort,
        outcome: Outcome,
        names: tuple[str, ...],
        pending: Pending,
        wrap: Callable[[str, Call], Call] = lambda _, call: call,
    ) -> None:
        self.databases: dict[str, str] = {}
        self._directories: dict[str, Path] = {}
        self._stage = stage
        self._pending = pending
        self._names = tuple(effort.contenders(names, outcome, stage.directory))
        self._outcome = outcome
        self._wrap = wrap

    def __enter__(self) -> Self:
        for name in self._names:
            self.databases[name] = self._stage.template(self._pending.base)
            try:
                self._prepare(name)
            except Failed as failure:
                self._outcome.left_out[name] = str(failure)
                self._stage.drop(self.databases.pop(name))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with databases(self._stage, *self.databases.values()):
            if kind is None:
                for name, database in self.databases.items():
                    self._stage.check_recorded(database, RUNNERS[name], len(self._pending.migrations))

    def run(self, name: str, port: int | None = None) -> Callable[[], Cost]:
        """Return what measures one start of a contender."""
        return partial(measure, self.call(name, port))

    def call(self, name: str, port: int | None = None) -> Call:
        """Return the process that is one start of a contender."""
        dsn = self._stage.dsn(self.databases[name], port)
        return self._wrap(name, RUNNERS[name].call(self._directories[name], dsn))

    def _prepare(self, name: str) -> None:
        runner, database, files = RUNNERS[name], self.databases[name], self._pending.migrations
        fill = _FILLS[name] if name in _FILLS and len(files) > 1 else None
        self._directories[name] = self._stage.lay_out(runner, files)
        first = self._stage.lay_out(runner, files[:1]) if fill else self._directories[name]
        measure(self._wrap(name, runner.call(first, self._stage.dsn(database))))
        if fill:
            self._stage.execute(database, fill.replace("%s", str(len(files))))
        self._stage.check_recorded(database, runner, len(files))


def _psql() -> str | None:
    """Return the server's own psql, or an installed one."""
    own = find_binaries() / "psql"
    return str(own) if own.exists() else shutil.which("psql")
