"""Workloads that apply files to a fresh database."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import migrations
from benchmarks.effort import FULL, OTHERS
from benchmarks.line import Line
from benchmarks.memory import BackendMemory
from benchmarks.outcome import Outcome, Target
from benchmarks.pairs import play
from benchmarks.process import Process, measure
from benchmarks.runners import DBMATE, FLOOR, NAIVE, OURS, RUNNERS
from benchmarks.stage import databases, stage

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.effort import Effort
    from benchmarks.migrations import Pending
    from benchmarks.pairs import Rounds
    from benchmarks.process import Cost
    from benchmarks.stage import Stage

ROUND_TRIP_S = 0.010
FSYNC_DELAY_US = 2000
OPTED_IN, FLUSHED_ONCE = f"{OURS}, MIGRATE_COMMIT=run", f"{FLOOR}, flushed once"


def many_small(stage: Stage, effort: Effort) -> Outcome:
    """Measure 200 files with a round trip of 10 ms to the server."""
    pending = migrations.heavy(effort.size(200))
    outcome = Outcome("many-small", f"{len(pending.migrations)} pending files, 10 ms line")
    with Line(stage.server.port, ROUND_TRIP_S) as line:
        rounds = _apply(outcome, stage, effort, pending, (OURS, FLOOR, DBMATE, *OTHERS), line.port)
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to the C floor's", rounds, OURS, FLOOR, 1.15)
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 1 / 8)
    return outcome


def light(stage: Stage, effort: Effort) -> Outcome:
    """Measure 1,000 files of an INSERT and an UPDATE."""
    pending = migrations.light(effort.size(1000))
    outcome = Outcome("light", f"{len(pending.migrations):,} light files (INSERT, UPDATE)")
    rounds = _apply(outcome, stage, effort, pending, (OURS, FLOOR, DBMATE, *OTHERS))
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 0.30)
    return outcome


def slow_disk(_: Stage, effort: Effort) -> Outcome:
    """Measure the same where every fsync takes 2 ms longer, and with the opt-in that flushes once."""
    pending = migrations.light(effort.size(1000))
    outcome = Outcome("slow-disk", f"{len(pending.migrations):,} light files, every fsync 2 ms slower")
    contenders = [OURS, OPTED_IN, FLOOR, FLUSHED_ONCE, DBMATE, NAIVE]
    with stage(FSYNC_DELAY_US) as slow:
        if effort.invites(OURS) and not _is_known(slow, OPTED_IN):
            contenders.remove(OPTED_IN)
            outcome.left_out[OPTED_IN] = "this version does not know the variable"
        rounds = _apply(outcome, slow, effort, pending, tuple(contenders))
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to dbmate's, by default", rounds, OURS, DBMATE, 0.75)
    outcome.add_target("wall time to dbmate's, with MIGRATE_COMMIT=run", rounds, OPTED_IN, DBMATE, 0.15)
    return outcome


def heavy(stage: Stage, effort: Effort) -> Outcome:
    """Measure 1,000 files of a table, an index and a row."""
    pending = migrations.heavy(effort.size(1000))
    outcome = Outcome("heavy", f"{len(pending.migrations):,} heavy files (table, index, INSERT)")
    rounds = _apply(outcome, stage, effort, pending, (OURS, FLOOR, DBMATE, *OTHERS))
    outcome.add_rounds(rounds, DBMATE)
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 0.85)
    return outcome


def big_file(stage: Stage, effort: Effort) -> Outcome:
    """Measure one file of 50 MB, and the memory that it takes on both sides."""
    megabytes = effort.size(50)
    pending = migrations.big(megabytes * 1_000_000)
    outcome = Outcome("big-file", f"one file of {megabytes} MB of INSERTs")
    peaks: dict[str, list[float]] = defaultdict(list)

    def run(name: str, directory: Path) -> Cost:
        database = stage.database()
        with databases(stage, database):
            with BackendMemory(stage, database) as memory:
                cost = measure(RUNNERS[name].call(directory, stage.dsn(database)))
            stage.check(database, RUNNERS[name], pending)
        peaks[name].append(memory.peak_mib)
        return cost

    names = tuple(effort.contenders((OURS, FLOOR, DBMATE, NAIVE), outcome, stage.directory))
    runs = {name: partial(run, name, stage.lay_out(RUNNERS[name], pending.migrations)) for name in names}
    rounds = play(runs, effort.long, effort.few, FULL)
    outcome.add_rounds(rounds, DBMATE)
    outcome.rows = [replace(row, extra={"backend": f"{median(peaks[row.name]):.0f} MiB"}) for row in outcome.rows]
    outcome.notes.append("backend: the memory of its own that the server's process had at most, looked at every 10 ms")
    outcome.add_target("wall time to dbmate's", rounds, OURS, DBMATE, 0.60)
    if ours := outcome.row(OURS):
        outcome.targets.append(Target("client's memory", ours.rss_mib or 0.0, 48, "MiB"))
        outcome.targets.append(Target("backend's memory", median(peaks[OURS]), 32, "MiB"))
    return outcome


def _is_known(stage: Stage, name: str) -> bool:
    """Tell whether the program knows what it is called with."""
    with Process(RUNNERS[name].call(stage.directory, stage.dsn("postgres"))) as process:
        return "settings.unknown" not in process.wait()[2]


def _apply(
    outcome: Outcome, stage: Stage, effort: Effort, pending: Pending, names: tuple[str, ...], port: int | None = None
) -> Rounds:
    """Have everyone apply everything, in turn."""
    with ExitStack() as stack:
        template = stage.template(pending.base)
        stack.enter_context(databases(stage, template))
        invited = tuple(effort.contenders(names, outcome, stage.directory))
        runs = {}
        for name in invited:
            runner = RUNNERS[name]
            directory = stage.lay_out(runner, pending.migrations)
            runs[name] = partial(stage.apply, runner, directory, pending, template, port)
        return play(runs, effort.long, effort.few, FULL)
