"""The program under test as its users run it: a process with an environment, two streams and an exit status.

In every test, both streams are searched for secrets, and stderr must be empty.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "entrypoint.py"
TIMEOUT_S = 60.0

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process. `exit_code` is 128+n after signal n, as in a shell; `killed` distinguishes the two."""

    exit_code: int
    stdout: str
    stderr: str
    events: list[Event]
    killed: bool = False

    def named(self, event: str) -> list[Event]:
        """Return the events of that name, in order."""
        return [line for line in self.events if line["event"] == event]

    @property
    def report(self) -> Event:
        """The last line, which must be the report."""
        assert self.events, "nothing was logged"
        assert self.events[-1]["event"] == "run.finished"
        return self.events[-1]


class Process:
    """A running process of the program. It writes to files in `directory`, so it never waits for a reader."""

    def __init__(self, command: list[str], environment: Mapping[str, str], directory: Path, secrets: set[str]) -> None:
        directory.mkdir(parents=True)
        (directory / "home").mkdir()
        self._streams = (directory / "stdout", directory / "stderr")
        self._secrets = secrets | set(_secrets_in(environment))
        self._seen = 0
        with self._streams[0].open("wb") as stdout, self._streams[1].open("wb") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, *command],
                env={**_clean_environment(home=directory / "home"), **environment},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def events(self) -> list[Event]:
        """Every complete line logged so far."""
        return _parsed(self._output()[0].rpartition("\n")[0])

    def wait_for(self, event: str, timeout: float = 20) -> Event:
        """Return the next event of that name after the last one returned; skip the lines in between."""
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.running
            events = self.events
            for number, line in enumerate(events[self._seen :], self._seen + 1):
                if line["event"] == event:
                    self._seen = number
                    return line
            if ended or time.monotonic() > deadline:
                why = "the process ended" if ended else f"not within {timeout} s"
                raise AssertionError(f"no {event}: {why}\n" + "".join(self._output()))
            time.sleep(0.01)

    def signal(self, signum: signal.Signals) -> None:
        self._popen.send_signal(signum)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def finish(self, timeout: float = TIMEOUT_S, *, as_json: bool = True) -> Run:
        """Wait for the process to end, check both streams, and return the run; `events` is empty unless `as_json`."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s\n" + "".join(self._output())) from None
        self.check_streams()
        stdout, stderr = self._output()
        return Run(
            exit_code=status if status >= 0 else 128 - status,
            stdout=stdout,
            stderr=stderr,
            events=_parsed(stdout.removesuffix("\n")) if as_json else [],
            killed=status < 0,
        )

    def check_streams(self) -> None:
        """Assert that no secret was printed and that stderr is empty."""
        stdout, stderr = self._output()
        for secret in self._secrets:
            assert secret not in stdout + stderr, f"a secret was printed: {stdout}{stderr}"
        assert stderr == "", f"on stderr: {stderr}"

    def close(self) -> None:
        """End the process if it is still running, and check its streams."""
        if self.running:
            self.kill()
            self._popen.wait()
        self.check_streams()

    def _output(self) -> tuple[str, str]:
        stdout, stderr = (path.read_bytes().decode() for path in self._streams)
        return stdout, stderr


class Program:
    """Starts processes with `defaults`; they inherit only PATH and what coverage needs from the environment."""

    def __init__(
        self,
        defaults: Mapping[str, str],
        directory: Path,
        secrets: tuple[str, ...] = (),
        entrypoint: Path = ENTRYPOINT,
    ) -> None:
        self._defaults = defaults
        self._directory = directory
        self._secrets = set(secrets)
        self._entrypoint = entrypoint
        self._processes: list[Process] = []

    def start(self, *args: str, **variables: str | None) -> Process:
        """Start the program with the arguments `args`; a variable that is None is not set."""
        given = {**self._defaults, **variables}
        environment = {name: value for name, value in given.items() if value is not None}
        directory = self._directory / str(len(self._processes))
        process = Process([str(self._entrypoint), *args], environment, directory, self._secrets)
        self._processes.append(process)
        return process

    def run(self, *args: str, as_json: bool = True, timeout: float = TIMEOUT_S, **variables: str | None) -> Run:
        """Start the program and wait for it to end."""
        return self.start(*args, **variables).finish(timeout, as_json=as_json)

    def close(self) -> None:
        for process in self._processes:
            process.close()


def _clean_environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **inherited}


def _parsed(stdout: str) -> list[Event]:
    events = [json.loads(line) for line in stdout.split("\n")] if stdout else []
    assert all(isinstance(event, dict) for event in events), f"not objects: {stdout}"
    return events


def _secrets_in(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield every form of the passwords that the program is given, if it has at least four characters."""
    dsn = environment.get("DATABASE_URL", "")
    if "DATABASE_URL_FILE" in environment:
        path = Path(environment["DATABASE_URL_FILE"])
        dsn = dsn or (path.read_text().strip() if path.is_file() else "")
    passwords = {environment.get("PGPASSWORD", ""), *_passwords_in(dsn)}
    if any(passwords):
        yield dsn
    for password in passwords:
        for form in (password, unquote(password), quote(password, safe=""), quote(password)):
            if len(form) >= 4:
                yield form


def _passwords_in(dsn: str) -> Iterator[str]:
    # Malformed DSNs are tested too: the password that the author intended is a secret, even if libpq reads another.
    userinfo = dsn.partition("://")[2].rpartition("@")[0]
    yield userinfo.partition(":")[2]
    with suppress(psycopg.Error, UnicodeError):
        yield str(conninfo_to_dict(dsn).get("password") or "")
