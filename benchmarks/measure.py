"""Starts processes and measures them: wall time, CPU time and memory, in rounds, with medians and paired ratios."""

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
    """Arguments, and the variables that a process gets in addition to PATH, HOME and LANG."""

    arguments: Sequence[str | Path]
    variables: Mapping[str, str] = field(default_factory=dict)


class Cost(NamedTuple):
    """Wall and CPU time in milliseconds, and the peak of resident memory in MiB."""

    wall_ms: float
    cpu_ms: float
    memory_mib: float


@dataclass(slots=True)
class Result:
    """What a workload measured.

    `columns` holds more of its table, by heading and row, `figures` what else a target is about. `not_measured` says
    why a runner, or the whole workload, has no costs.
    """

    title: str
    baseline: str = "dbmate"
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    columns: dict[str, dict[str, float]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)

    def keep_largest(self, heading: str, name: str, value: float) -> None:
        """Put a value into a column, unless a round before had a larger one."""
        column = self.columns.setdefault(heading, {})
        column[name] = max(value, column.get(name, value))

    def measure(self, runs: Mapping[str, Callable[[], Cost]], rounds: int) -> None:
        """Measure in rounds, A B C A B C. What fails once is measured no more and has no figures."""
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
        """Return the quartiles of the wall time divided by the baseline's in the same round."""
        pairs = zip(self.costs[name], self.costs[baseline], strict=True)
        ratios = [cost.wall_ms / base.wall_ms for cost, base in pairs]
        lower, middle, upper = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
        return lower, middle, upper


def run(command: Command, count: int = 1) -> Cost:
    """Run a process to its end, or several at once; raise `Failed` unless all exit with 0."""
    failures, cost = run_at_once(command, count)
    if failures:
        raise Failed(f"{len(failures)} of {count} failed: {failures[0]}")
    return cost


def run_at_once(command: Command, count: int) -> tuple[list[str], Cost]:
    """Start several processes at once; return why some of them failed, and what all of them cost.

    The wall time is from the first start to the last end, the CPU time that of all, the memory that of the largest.
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
                raise Failed(f"not measured, or killed after five minutes: {end}")
            *cost, status = map(int, (directory / "cost").read_text().split())
            costs.append(cost)
            if status:
                failures.append(f"exit code {os.waitstatus_to_exitcode(status)} of {end}")
    started_ns, ended_ns, cpu_us, memory_kib = zip(*costs, strict=True)
    return failures, Cost((max(ended_ns) - min(started_ns)) / 1e6, sum(cpu_us) / 1e3, max(memory_kib) / 1024)


def _start(command: Command, directory: Path) -> subprocess.Popen[bytes]:
    """Start a process under the C program that writes what it costs to a file."""
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
