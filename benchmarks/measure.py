"""Runs processes in rounds and measures wall time, CPU time and memory; computes medians and paired ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.install import Failed, compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Command:
    """A process's arguments, and its environment variables in addition to PATH, HOME and LANG."""

    arguments: Sequence[str | Path]
    variables: Mapping[str, str] = field(default_factory=dict)


class Cost(NamedTuple):
    """Wall and CPU time in milliseconds, and peak resident memory in MiB."""

    wall_ms: float
    cpu_ms: float
    memory_mib: float


@dataclass(slots=True)
class Result:
    """The measurements of a workload.

    `columns` holds the table's additional columns, by heading and row; `figures` holds other values that have targets.
    `not_measured` maps a runner, or the whole workload, to the reason why it has no costs.
    """

    title: str
    baseline: str = "dbmate"
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    columns: dict[str, dict[str, float]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)

    def keep_largest(self, heading: str, name: str, value: float) -> None:
        """Put a value into a column, unless an earlier round had a larger value."""
        column = self.columns.setdefault(heading, {})
        column[name] = max(value, column.get(name, value))

    def measure(self, runs: Mapping[str, Callable[[], Cost]], rounds: int) -> None:
        """Measure in rounds (A B C A B C). Drop a runner, including its earlier results, as soon as it fails."""
        self.costs = {name: [] for name in runs}
        for _ in range(rounds):
            for name in list(self.costs):
                try:
                    self.costs[name].append(runs[name]())
                except Failed as failure:
                    self.not_measured[name] = str(failure)
                    del self.costs[name]

    def median(self, name: str) -> Cost:
        """Return the median of each part of the cost."""
        return Cost(*map(statistics.median, zip(*self.costs[name], strict=True)))

    def ratio(self, name: str, baseline: str) -> tuple[float, float, float]:
        """Return the quartiles of the ratio of the wall time to the baseline's wall time in the same round."""
        pairs = zip(self.costs[name], self.costs[baseline], strict=True)
        ratios = [cost.wall_ms / base.wall_ms for cost, base in pairs]
        lower, middle, upper = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
        return lower, middle, upper


def run(command: Command, count: int = 1) -> Cost:
    """Run a process, or several at once, until they end; raise `Failed` unless all exit with 0."""
    failures, cost = run_at_once(command, count)
    if failures:
        raise Failed(f"{len(failures)} of {count} failed: {failures[0]}")
    return cost


def run_at_once(command: Command, count: int) -> tuple[list[str], Cost]:
    """Start several processes at once; return a message for each failed process, and the total cost.

    The wall time is measured from the first start to the last end, the CPU time is the sum over all processes, and the
    memory is that of the largest process.
    """
    failures, costs = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        directories = [Path(place, str(number)) for number in range(count)]
        processes = [_start(command, directory) for directory in directories]
        exit_codes = [process.wait() for process in processes]
        for exit_code, directory in zip(exit_codes, directories, strict=True):
            output = " / ".join((directory / "output").read_text(errors="replace").splitlines()[-3:])
            end = f"{' '.join(Path(word).name for word in command.arguments[:2])}: {output[-400:]}"
            if exit_code != 0:
                raise Failed(f"cannot be measured, or was killed after five minutes: {end}")
            *cost, status = map(int, (directory / "cost").read_text().split())
            costs.append(cost)
            if status:
                failures.append(f"exit code {os.waitstatus_to_exitcode(status)} of {end}")
    started_ns, ended_ns, cpu_us, memory_kib = zip(*costs, strict=True)
    return failures, Cost((max(ended_ns) - min(started_ns)) / 1e6, sum(cpu_us) / 1e3, max(memory_kib) / 1024)


def _start(command: Command, directory: Path) -> subprocess.Popen[bytes]:
    """Start a process through the C program that writes the cost of the process to a file."""
    directory.mkdir()
    with (directory / "output").open("wb") as output:
        return subprocess.Popen(
            [compiled("measure"), directory / "cost", *command.arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", **command.variables},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
