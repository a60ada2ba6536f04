"""Processes, and what they cost."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.install import compiled
from benchmarks.runners import base_environment

if TYPE_CHECKING:
    from benchmarks.runners import Call

TIMEOUT_S = 300


class Failed(Exception):
    """A process did not do what it was measured for; the text says which and what it wrote last."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took: wall and CPU time in milliseconds, resident memory at most in MiB."""

    wall_ms: float
    cpu_ms: float
    rss_mib: float


class Process:
    """A process under way, started by the small program that measures it; its output goes to files."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._place = tempfile.TemporaryDirectory(prefix="bench-")
        self._directory = Path(self._place.name)
        with (self._directory / "output").open("wb") as output:
            self._popen = subprocess.Popen(
                [str(compiled("measure")), str(self._directory / "cost"), *call.command],
                env={**base_environment(self._directory), **call.environ},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        self._place.cleanup()

    def wait(self) -> tuple[int, Cost, str]:
        """Wait for the end; return the exit code, what it cost and what it wrote. Raise `Failed` after 300 s."""
        try:
            self._popen.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self._name()} was still running after {TIMEOUT_S} s") from None
        output = (self._directory / "output").read_text(errors="replace")
        try:
            wall_ns, cpu_us, rss_kib, status = map(int, (self._directory / "cost").read_text().split())
        except (OSError, ValueError):
            raise Failed(f"{self._name()} was not measured: {output[-300:]}") from None
        return os.waitstatus_to_exitcode(status), Cost(wall_ns / 1e6, cpu_us / 1e3, rss_kib / 1024), output

    def expect_success(self) -> Cost:
        """Wait for the end; return what it cost. Raise `Failed` unless the exit code is 0."""
        exit_code, cost, output = self.wait()
        if exit_code != 0:
            last = " / ".join(output.strip().splitlines()[-3:])
            raise Failed(f"{self._name()} ended with {exit_code}: {last[-400:]}")
        return cost

    def _name(self) -> str:
        return " ".join(Path(word).name for word in self._call.command[:2])


def measure(call: Call) -> Cost:
    """Run a process to its end; raise `Failed` unless it exits with 0."""
    with Process(call) as process:
        return process.expect_success()
