"""The workloads to measure and their targets; see the tables at the end."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.install import Failed, built_image, compiled, dbmate, image_with
from benchmarks.measure import Command, Cost, Result, run, run_at_once
from benchmarks.migrations import big_file, heavy, light, tables
from benchmarks.runners import ALEMBIC, DBMATE, FLOOR, PG_PREDEPLOY, RUNNERS, WAITING, in_container
from benchmarks.server import LatencyProxy, backend_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from benchmarks.migrations import MigrationSet
    from benchmarks.server import Server

    Commands = Mapping[str, Command]

ALL = [name for name in RUNNERS if name != WAITING]
NOTHING, SINGLE_STARTS = "a binary that does nothing", "single starts"


@dataclass(frozen=True, slots=True)
class Bench:
    """A server, the result to fill in, the runners to measure (all if `only` is empty), and the numbers of rounds."""

    server: Server
    result: Result
    only: frozenset[str] = frozenset()
    rounds_of_starts: int = 21
    rounds: int = 5

    @contextmanager
    def migrated(self, names: Iterable[str], files: MigrationSet, port: int | None = None) -> Iterator[Commands]:
        """Yield each runner's command for a database to which the runner has already applied all migrations."""
        commands, databases = {}, {}
        with ExitStack() as stack:
            for name in self._taking_part(names):
                runner, database = RUNNERS[name], stack.enter_context(self.server.database(files.setup))
                try:
                    command = runner.command(self.server.write_files(runner, files), self.server.dsn(database, port))
                    run(command)
                    self.server.check(database, runner, files)
                except Failed as failure:
                    self.result.not_measured[name] = str(failure)
                else:
                    commands[name], databases[name] = command, database
            yield commands
            for name, database in databases.items():
                self.server.check(database, RUNNERS[name], files)

    def measure_starts(self, commands: Commands) -> None:
        """Measure commands that can be repeated because they change nothing."""
        self.result.measure({name: partial(run, command) for name, command in commands.items()}, self.rounds_of_starts)

    def measure_applying(
        self,
        names: Iterable[str],
        files: MigrationSet,
        start: Callable[[str, str, Command], Cost] = lambda _name, _database, command: run(command),
        port: int | None = None,
    ) -> None:
        """Measure each runner applying all migrations to a new database; `start(runner, database, command)` runs it."""

        def apply(name: str, directory: Path) -> Cost:
            runner = RUNNERS[name]
            with self.server.database(files.setup) as database:
                cost = start(name, database, runner.command(directory, self.server.dsn(database, port)))
                self.server.check(database, runner, files)
            return cost

        taking_part = self._taking_part(names)
        runs = {name: partial(apply, name, self.server.write_files(RUNNERS[name], files)) for name in taking_part}
        self.result.measure(runs, self.rounds)

    def _taking_part(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.only or name.split(",")[0] in self.only]


def _no_op(bench: Bench, _: int) -> None:
    references = {
        "python -c pass": Command([sys.executable, "-c", "pass"]),
        "python -c 'import psycopg'": Command([sys.executable, "-c", "import psycopg"]),
    }
    # The psql in Debian's PATH is a wrapper script.
    psql = (bench.server.postgres.binaries / "postgres").resolve().with_name("psql")
    if psql.exists():
        references["psql"] = Command([psql, "-qAtXc", "SELECT 1", bench.server.dsn("postgres")])
    with bench.migrated(ALL, heavy(1)) as commands:
        bench.measure_starts({**commands, **references})


def _docker(bench: Bench, _: int) -> None:
    result, files = bench.result, bench.server.directory
    containers = {NOTHING: in_container(image_with(compiled("nothing")), ["/nothing"], {}, files)}
    with bench.migrated((PG_PREDEPLOY, DBMATE), heavy(1)) as commands:
        for name, command in commands.items():
            image = image_with(dbmate()) if name == DBMATE else built_image()
            arguments = ["/dbmate", *command.arguments[1:]] if name == DBMATE else []
            containers[name] = in_container(image, arguments, command.variables, files)
        bench.measure_starts(containers)
    result.notes.append("CPU and memory are those of the `docker` command-line client")
    if result.costs.keys() == {NOTHING, DBMATE, PG_PREDEPLOY}:
        product, peer = (
            median(cost.wall_ms - nothing.wall_ms for cost, nothing in zip(costs, result.costs[NOTHING], strict=True))
            for costs in (result.costs[PG_PREDEPLOY], result.costs[DBMATE])
        )
        result.notes.append(f"additional wall time: pg-predeploy {product:.0f} ms, dbmate {peer:.0f} ms")
        result.figures["additional wall time vs dbmate"] = product / max(peer, 1e-3)


def _no_op_many(bench: Bench, count: int) -> None:
    names = [name for name in ALL if name != ALEMBIC]  # alembic would import 10,000 modules
    with bench.migrated(names, light(count)) as commands:
        bench.measure_starts(commands)
    bench.result.notes.append("pg-predeploy verifies the hash of every file; the minimal C runner only compares names")


def _no_op_latency(bench: Bench, _: int) -> None:
    with LatencyProxy(bench.server.postgres.port) as proxy, bench.migrated(ALL, heavy(1), proxy.port) as commands:
        for name, command in commands.items():
            before = proxy.round_trips
            run(command)
            bench.result.keep_largest("round trips", name, proxy.round_trips - before)
        bench.measure_starts(commands)
    bench.result.notes.append("a login takes three round trips (startup, two for SCRAM); connecting is not delayed")


def _pending_latency(bench: Bench, count: int) -> None:
    with LatencyProxy(bench.server.postgres.port) as proxy:
        bench.measure_applying(ALL, heavy(count), port=proxy.port)


def _pending(generate: Callable[[int], MigrationSet], bench: Bench, count: int) -> None:
    bench.measure_applying(ALL, generate(count))


def _big_file(bench: Bench, megabytes: int) -> None:
    def start(name: str, database: str, command: Command) -> Cost:
        with backend_memory(bench.server, database) as samples:
            cost = run(command)
        bench.result.keep_largest("backend memory (MiB)", name, max(samples))
        return cost

    bench.measure_applying((PG_PREDEPLOY, FLOOR, DBMATE), big_file(megabytes * 1_000_000), start)
    bench.result.notes.append("backend: the peak private memory of the server's process, sampled every 10 ms")


def _concurrent(bench: Bench, count: int) -> None:
    def start(name: str, _database: str, command: Command) -> Cost:
        failures, cost = run_at_once(command, count)
        bench.result.keep_largest("failed", name, len(failures))
        return cost

    bench.measure_applying([name for name in RUNNERS if name != FLOOR], heavy(count), start)
    bench.result.notes.append("wall: first start to last exit; CPU: sum of all runners; memory: the largest")
    bench.result.notes.append(f"failed: the highest number of failed runners, out of {count}, in any round")
    if PG_PREDEPLOY in bench.result.columns.get("failed", {}):
        bench.result.figures["databases with wrong contents"] = PG_PREDEPLOY in bench.result.not_measured


def _replicas(bench: Bench, count: int) -> None:
    def single_starts(command: Command) -> Cost:
        wall_ms, cpu_ms, memory_mib = zip(*(run(command) for _ in range(count)), strict=True)
        return Cost(sum(wall_ms), sum(cpu_ms), max(memory_mib))

    log = bench.server.postgres.directory / "log"
    with bench.migrated((PG_PREDEPLOY,), heavy(1)) as commands:
        for name, command in commands.items():
            runs = {name: partial(run, command, count), SINGLE_STARTS: partial(single_starts, command)}
            bench.result.measure(runs, bench.rounds)
            before = log.stat().st_size
            dsn = command.variables["DATABASE_URL"] + "&options=-clog_statement%3Dall"
            run(Command(command.arguments, {**command.variables, "DATABASE_URL": dsn}), count)
            logged = log.read_bytes()[before:].decode(errors="replace")
            if "_migrations" not in logged:
                raise Failed("the server's log does not contain pg-predeploy's statements")
            lock_calls = len(re.findall(r"pg_\w*advisory\w*lock\w*\s*\(", logged))
            bench.result.keep_largest("advisory lock calls", name, lock_calls)


@dataclass(frozen=True, slots=True)
class Workload:
    """A function that measures, and the size to pass to it; {} in the title stands for the size."""

    measure: Callable[[Bench, int], None]
    size: int
    title: str
    baseline: str = DBMATE


@dataclass(frozen=True, slots=True)
class Target:
    """The upper limit for a figure of a workload. A figure without a unit is a count; it is the same on any machine."""

    workload: str
    figure: str
    limit: float
    unit: str = "x"

    def found(self, result: Result) -> float | None:
        """Return the measured figure, either computed from the costs or stored by the workload, or None."""
        if self.figure == "memory" and PG_PREDEPLOY in result.costs:
            return result.median(PG_PREDEPLOY).memory_mib
        baseline = self.figure.removeprefix("wall time vs ")
        if {PG_PREDEPLOY, baseline} <= result.costs.keys():
            return result.ratio(PG_PREDEPLOY, baseline)[1]
        return result.columns.get(self.figure, {}).get(PG_PREDEPLOY, result.figures.get(self.figure))


WORKLOADS = {
    "no-op": Workload(_no_op, 1, "No-op start, {} applied file, whole process"),
    "docker": Workload(_docker, 1, "`docker run` with nothing to do", NOTHING),
    "no-op-many": Workload(_no_op_many, 10_000, "No-op start, {:,} applied files"),
    "no-op-latency": Workload(_no_op_latency, 1, "No-op start, {} applied file, 10 ms latency"),
    "pending-latency": Workload(_pending_latency, 200, "{} pending files, 10 ms latency"),
    "light": Workload(partial(_pending, light), 1000, "{:,} light files (INSERT, UPDATE)"),
    "heavy": Workload(partial(_pending, heavy), 1000, "{:,} heavy files (table, index, INSERT)"),
    "few-files": Workload(partial(_pending, tables), 20, "{} files (table, index), empty database, whole process"),
    "big-file": Workload(_big_file, 50, "One file of {} MB of INSERTs"),
    "concurrent": Workload(_concurrent, 20, "{0} simultaneous runners, {0} files, empty database", WAITING),
    "replicas": Workload(_replicas, 50, "{} replicas at once on a migrated database", SINGLE_STARTS),
}

TARGETS = (
    Target("no-op", "wall time vs dbmate", 1.8),
    Target("no-op", "memory", 20, "MiB"),
    Target("docker", "additional wall time vs dbmate", 1.7),
    Target("no-op-many", "wall time vs dbmate", 2.2),
    Target("no-op-latency", "wall time vs dbmate", 0.40),
    Target("no-op-latency", "round trips", 4, ""),
    Target("pending-latency", f"wall time vs {FLOOR}", 1.30),
    Target("light", "wall time vs dbmate", 0.42),
    Target("heavy", "wall time vs dbmate", 0.85),
    Target("few-files", "wall time vs dbmate", 2.2),
    Target("big-file", "wall time vs dbmate", 0.72),
    Target("big-file", "memory", 45, "MiB"),
    Target("big-file", "backend memory (MiB)", 32, "MiB"),
    Target("concurrent", "failed", 0, ""),
    Target("concurrent", "databases with wrong contents", 0, ""),
    Target("concurrent", f"wall time vs {WAITING}", 1.0),
    Target("replicas", "advisory lock calls", 0, ""),
    Target("replicas", f"wall time vs {SINGLE_STARTS}", 1.1),
)
