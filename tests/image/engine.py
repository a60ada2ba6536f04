"""The Docker engine, used through its command line, and containers that are removed after the test."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# The options that the README recommends.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=32m")


def docker(*arguments: str, check: bool = True, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a docker command; if it fails, raise an error with its output."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done


def eventually(holds: Callable[[], object], within: float = 20) -> None:
    """Wait until `holds` returns a truthy value."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.1)


@dataclass(frozen=True)
class Ended:
    """A container that has ended: its exit code and its log lines."""

    code: int
    events: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]


@dataclass
class Container:
    """A running container; `wait` waits for it to end."""

    name: str
    started: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return its log so far; raise unless stdout consists of JSON objects and stderr is empty."""
        logged = docker("logs", self.name)
        assert logged.stderr == "", logged.stderr
        events = [json.loads(line) for line in logged.stdout.splitlines()]
        assert all(isinstance(event, dict) for event in events)
        return events

    @property
    def pid(self) -> str:
        """The process id, on the host, of its first process, which gives access to its network namespace."""
        return self.inspect("{{.State.Pid}}")

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.name).stdout.strip()

    def until(self, event: str) -> None:
        """Wait until it has logged `event`."""
        eventually(lambda: [line for line in self.events if line["event"] == event])

    def wait(self, timeout: float = 60) -> Ended:
        code = int(docker("wait", self.name, timeout=timeout).stdout)
        return Ended(code, self.events)

    def psql(self, statement: str, database: str = "postgres", *, check: bool = True) -> str:
        """Run a query on the Postgres server in this container, as its superuser."""
        command = ("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement)
        return docker("exec", self.name, *command, check=check).stdout.strip()

    @contextmanager
    def firewall(self, *rule: str) -> Iterator[None]:
        """Drop packets inside the container's own network namespace."""
        iptables = ["nsenter", "--target", self.pid, "--net", "iptables"]
        subprocess.run([*iptables, "--append", *rule], check=True)
        try:
            yield
        finally:
            subprocess.run([*iptables, "--delete", *rule], check=False)


def start(
    image: str, *command: str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Container:
    """Start a container in the background."""
    variables = [f"--env={name}={value}" for name, value in (environment or {}).items()]
    return Container(docker("run", "--detach", *options, *variables, image, *command).stdout.strip())
