"""How much memory a server's processes have of their own, looked at while they work."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg

if TYPE_CHECKING:
    from benchmarks.stage import Stage

PERIOD_S = 0.01
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)


class BackendMemory:
    """Looks every 10 ms at the backends of a database; `peak_mib` is the most that one of them had.

    Counted is what the process has for itself (RssAnon). Its VmHWM would count the server's shared buffers, too.
    """

    def __init__(self, stage: Stage, database: str) -> None:
        self.peak_mib = 0.0
        self._dsn = stage.dsn("postgres")
        self._database = database
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            turn = 0
            pids: list[int] = []
            while not self._ended.wait(PERIOD_S):
                if turn % 5 == 0:
                    found = conn.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", [self._database])
                    pids = [pid for (pid,) in found]
                turn += 1
                self.peak_mib = max(self.peak_mib, *map(_anonymous_mib, pids), 0.0)


def _anonymous_mib(pid: int) -> float:
    try:
        found = _ANONYMOUS.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
