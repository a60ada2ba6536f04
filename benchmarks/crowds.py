"""Workloads in which many start at once, as the replicas of a deployment do."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import migrations
from benchmarks.effort import OTHERS
from benchmarks.outcome import Outcome, Target
from benchmarks.pairs import play
from benchmarks.process import Cost, Failed, Process, measure
from benchmarks.runners import DBMATE, OURS, RUNNERS
from benchmarks.stage import databases
from benchmarks.starts import Applied

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.effort import Effort
    from benchmarks.runners import Call
    from benchmarks.stage import Stage

_LOCKING = re.compile(r"pg_\w*advisory\w*lock\w*\s*\(")


def together(stage: Stage, effort: Effort) -> Outcome:
    """Measure 20 simultaneous runners on an empty database, and how many of them fail."""
    crowd, pending = effort.size(20), migrations.heavy(effort.size(20))
    title = f"{crowd} simultaneous runners, {len(pending.migrations)} files, empty database"
    outcome = Outcome("together", title)
    starts = f"{crowd} simultaneous no-op starts"
    failed: dict[str, list[int]] = defaultdict(list)
    wrong: dict[str, str] = {}

    def run(name: str, directory: Path) -> Cost:
        database = stage.database()
        with databases(stage, database):
            codes, cost = _crowd(RUNNERS[name].call(directory, stage.dsn(database)), crowd)
            failed[name].append(sum(code != 0 for code in codes))
            try:
                stage.check(database, RUNNERS[name], pending)
            except Failed as failure:
                wrong[name] = str(failure)
        return cost

    with Applied(stage, effort, outcome, (OURS,), pending) as applied:
        names = tuple(effort.contenders((OURS, DBMATE, *OTHERS), outcome, stage.directory))
        runs = {name: partial(run, name, stage.lay_out(RUNNERS[name], pending.migrations)) for name in names}
        if OURS in applied.databases:
            runs = {starts: partial(_no_ops, applied, crowd), **runs}
        rounds = play(runs, effort.long, effort.few, (starts, OURS, DBMATE))
    outcome.add_rounds(rounds, starts)
    outcome.rows = [
        replace(row, extra={"failed": f"{median(failed[row.name]):.0f} of {crowd}"}) if row.name in failed else row
        for row in outcome.rows
    ]
    outcome.notes.append("wall: from the first start to the last end; CPU: of all together; memory: of the largest")
    outcome.notes += [f"{name}, in the end: {what}" for name, what in wrong.items()]
    if OURS in failed:
        outcome.targets.append(Target("runners that fail, in any round", max(failed[OURS]), 0, ""))
        outcome.targets.append(Target("databases that are not as they should be", int(OURS in wrong), 0, ""))
    outcome.add_target("wall time to simultaneous no-op starts", rounds, OURS, starts, 1.25)
    return outcome


def replicas(stage: Stage, effort: Effort) -> Outcome:
    """Measure 50 simultaneous starts on a migrated database, beside 50 one after another."""
    crowd = effort.size(50)
    outcome = Outcome("replicas", f"{crowd} replicas at once on a migrated database")
    at_once, in_turn = f"{crowd} at once", f"{crowd} one after another"
    with Applied(stage, effort, outcome, (OURS,), migrations.heavy(1)) as applied, ExitStack() as stack:
        if not applied.databases:
            return outcome
        runs = {at_once: partial(_no_ops, applied, crowd), in_turn: partial(_sequence, applied, crowd)}
        rounds = play(runs, effort.long, effort.few, (at_once, in_turn))
        locks = _locks_taken(stage, applied.databases[OURS], stack, partial(_no_ops, applied, crowd))
    outcome.add_rounds(rounds, in_turn)
    outcome.targets.append(Target("calls of an advisory lock's functions in the server's log", locks, 0, ""))
    outcome.add_target("wall time to single starts one after another", rounds, at_once, in_turn, 1.1)
    return outcome


def _crowd(call: Call, count: int) -> tuple[list[int], Cost]:
    """Start a process `count` times at once; return the exit codes and what it cost from first start to last end."""
    with ExitStack() as stack:
        started = time.monotonic()
        processes = [stack.enter_context(Process(call)) for _ in range(count)]
        ends = [process.wait() for process in processes]
        wall_ms = (time.monotonic() - started) * 1000
    costs = [cost for _, cost, _ in ends]
    together = Cost(wall_ms, sum(cost.cpu_ms for cost in costs), max(cost.rss_mib for cost in costs))
    return [code for code, _, _ in ends], together


def _no_ops(applied: Applied, count: int) -> Cost:
    codes, cost = _crowd(applied.call(OURS), count)
    if any(codes):
        raise Failed(f"of {count} starts with nothing to do {sum(map(bool, codes))} failed")
    return cost


def _sequence(applied: Applied, count: int) -> Cost:
    """Start one after another; the wall time is the sum of theirs, without ours between them."""
    costs = [measure(applied.call(OURS)) for _ in range(count)]
    return Cost(
        sum(cost.wall_ms for cost in costs), sum(cost.cpu_ms for cost in costs), max(cost.rss_mib for cost in costs)
    )


def _locks_taken(stage: Stage, database: str, stack: ExitStack, run: partial[Cost]) -> int:
    """Have the server log every statement of a run, and count those that would lock."""
    stage.command(f"ALTER DATABASE {database} SET log_statement = 'all'")
    stack.callback(stage.command, f"ALTER DATABASE {database} RESET log_statement")
    log = stage.server.directory / "log"
    before = log.stat().st_size
    run()
    with log.open("rb") as file:
        file.seek(before)
        logged = file.read().decode(errors="replace")
    if "_migrations" not in logged:
        raise Failed("the server's log does not show what the program asked")
    return len(_LOCKING.findall(logged))
