"""Start runs of the program quickly by forking a parent process that has already imported everything.

The parent is a separate process, single-threaded and without a connection, so that a child starts like a fresh
process: default signal handlers, no threads, its own environment, streams and arguments, and `os._exit` at the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from tests.support.program import ENTRYPOINT, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Runner:
    """A process of the program, forked or fresh. `status` is its exit code, negative for a signal, None if running."""

    def __init__(self, pid: int, directory: Path, reap: Callable[[], int]) -> None:
        self.pid = pid
        self.status: int | None = None
        self._directory = directory
        self._reap = reap
        self._pidfd = os.pidfd_open(pid)  # only `reap` reaps the process, so the pid still belongs to it

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal unless the process has ended; never signal another process that reuses its pid."""
        if not self.ended(0):
            signal.pidfd_send_signal(self._pidfd, signum)

    def ended(self, timeout: float) -> bool:
        """Wait for the process to end, at most `timeout` seconds; return whether it has ended."""
        return bool(self.status is not None or select.select([self._pidfd], [], [], timeout)[0])

    def finish(self, timeout: float) -> bool:
        """Wait for the process to end, or kill it after `timeout` seconds; return whether it ended by itself."""
        of_itself = self.ended(timeout)
        self.signal(signal.SIGKILL)
        if self.status is None:
            self.status = self._reap()
        return of_itself

    def close(self) -> None:
        """Release the process descriptor; no thread may use the runner afterwards."""
        os.close(self._pidfd)

    @property
    def stdout(self) -> str:
        return self._read("stdout")

    @property
    def stderr(self) -> str:
        return self._read("stderr")

    def _read(self, stream: str) -> str:
        path = self._directory / stream
        return path.read_text() if path.exists() else ""


class ForkServer:
    """The process that forks; `planted` is a bug that it plants in the program for all its children."""

    def __init__(self, planted: str = "") -> None:
        self._turn = threading.Lock()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server", planted],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._ask({"hello": planted}) == planted, "the parent of the runners did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.communicate()  # closing its input ends the parent

    def start(self, environment: Mapping[str, str], directory: Path, *, fresh: bool = False) -> Runner:
        """Start a run with its streams in files in `directory`; with `fresh`, as a new process, for comparison."""
        directory.mkdir(exist_ok=True)
        for stream in ("stdout", "stderr"):
            (directory / stream).unlink(missing_ok=True)
        whole = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(directory), **environment}
        if fresh:
            with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
                popen = subprocess.Popen(
                    [sys.executable, str(ENTRYPOINT)],
                    env=whole,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                )
            return Runner(popen.pid, directory, popen.wait)
        pid = self._ask({"environment": whole, "directory": str(directory)})
        return Runner(pid, directory, lambda: int(self._ask({"reap": pid})))

    def _ask(self, request: Mapping[str, Any]) -> Any:
        stdin, stdout = self._popen.stdin, self._popen.stdout
        assert stdin
        assert stdout
        with self._turn:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            return json.loads(stdout.readline())


def _serve(planted: str) -> None:
    """Answer requests until there are no more."""
    import gc

    if planted:
        from tests.faults.planted import plant

        plant(planted)
    import entrypoint

    _import_everything()
    gc.freeze()  # keeps shared memory pages shared
    default = signal.getsignal(signal.SIGINT)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer: object
        if "hello" in request:
            answer = planted
        elif "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _be_the_program(entrypoint, request, default)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _be_the_program(entrypoint: Any, request: dict[str, Any], sigint: Any) -> NoReturn:
    directory = Path(request["directory"])
    for number, (path, flags) in enumerate(
        [
            (Path(os.devnull), os.O_RDONLY),
            (directory / "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ]
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = [str(ENTRYPOINT)]
    signal.signal(signal.SIGINT, sigint)
    entrypoint.STARTED = entrypoint.time.monotonic()
    entrypoint.run()
    raise AssertionError("run() has returned")


def _import_everything() -> None:
    """Import the modules that a run imports lazily, so that no child has to."""
    import importlib
    import pkgutil

    import predeploy

    for module in pkgutil.walk_packages(predeploy.__path__, "predeploy."):
        importlib.import_module(module.name)
    for name in ("tenacity", "psycopg.types", "traceback", "encodings.idna", "uuid", "fractions"):
        importlib.import_module(name)


if __name__ == "__main__":
    _serve(sys.argv[1])
