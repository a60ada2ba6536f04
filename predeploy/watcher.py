"""A second pair of eyes on a message that has had no answer for long: tells what it does, hangs up where all is dead.

Neither keepalives nor timeouts end a wait for a peer that acknowledges and says nothing: a stopped server, a stuck
proxy. Only another connection can tell it from a statement that takes long.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import pq

from predeploy.errors import PostgresUnavailable, StorageError
from predeploy.postgres import within
from predeploy.session import hang_up

if TYPE_CHECKING:
    from predeploy.postgres import Connection, ConnectionSource
    from predeploy.progress import Progress

log = logging.getLogger(__name__)

FIRST_AFTER_S = 5.0
LONGEST_INTERVAL_S = 60.0
SILENCE_S = 15.0  # without an answer to any login, before the server is given up
_TICK_S = 0.5
_LOGIN_S = 3.0
_LOOK_S = 5.0
_NO_ANSWER = {"timeout", "unreachable"}  # all other reasons are somebody's answer


class Watcher:
    """Looks after 5 s without an answer, then at doubling intervals of at most 60 s; its own failures harm nobody.

    Writes `migration.progress` for a migration that runs. Hangs up, so that the connection counts as lost, when no
    login has been answered for 15 s, or when the server waits for us while we wait for it: the line is dead then.
    """

    def __init__(self, db: ConnectionSource, conn: Connection) -> None:
        self._db = db
        self._conn = conn
        self.backend: int | None = None  # the server's own word for it, once it is known
        self._watched: tuple[str | None, float] = (None, 0.0)
        self._ended = threading.Event()
        self._silent_since: float | None = None
        self._idle: Progress | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="pg-predeploy-watcher", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # without waiting: it may be in the middle of a login

    def watch(self, migration: str | None) -> None:
        """Say which migration runs from now on."""
        self._watched = (migration, time.monotonic())

    def _run(self) -> None:
        since: float | None = None
        watched, due = self._watched, FIRST_AFTER_S
        while not self._ended.wait(_TICK_S):
            if not self._is_waiting():
                since = self._silent_since = self._idle = None
                continue
            if since is None or watched != self._watched:
                watched, since, due = self._watched, time.monotonic(), FIRST_AFTER_S
                self._silent_since = self._idle = None
            started = watched[1] or since
            if time.monotonic() - started < due:
                continue
            self._look(*watched)
            elapsed = time.monotonic() - started
            again_at_once = self._silent_since is not None or self._idle is not None
            due = 0.0 if again_at_once else elapsed + min(elapsed, LONGEST_INTERVAL_S)

    def _is_waiting(self) -> bool:
        try:
            return self._conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        except psycopg.Error:  # closed
            return False

    def _look(self, migration: str | None, started: float) -> None:
        asked = time.monotonic()
        seen, answered = self._ask()
        if self._ended.is_set() or self._watched != (migration, started) or not self._is_waiting():
            return
        if not answered:
            self._silent_since = self._silent_since or asked
            if time.monotonic() - self._silent_since >= SILENCE_S:
                self._hang_up("Postgres answers neither this connection nor a new one")
            return
        self._silent_since = None
        if seen and seen.is_idle:
            if self._idle == seen:
                self._hang_up("Postgres waits for us while we wait for it: the line is dead")
            self._idle = seen
            return
        self._idle = None
        if migration:
            elapsed_s = round(time.monotonic() - started, 1)
            fields = {"migration": migration, "elapsed_s": elapsed_s, **(seen.fields if seen else {})}
            log.info(
                "%s has run for %.0f s%s",
                migration,
                elapsed_s,
                seen or "",
                extra={"event": "migration.progress", **fields},
            )

    def _ask(self) -> tuple[Progress | None, bool]:
        """Return what is seen from a second connection, and whether anybody answered at all."""
        answered = threading.Event()

        def ask() -> Progress:
            from predeploy.pooler import told_pid
            from predeploy.progress import look

            with self._db.connection(timeout=_LOGIN_S) as other:
                answered.set()
                return look(other, self.backend or told_pid(self._conn, other))

        try:
            return within(_LOOK_S, ask), True
        except TimeoutError:
            return None, answered.is_set()
        except PostgresUnavailable as error:
            return None, error.reason not in _NO_ANSWER
        except (StorageError, psycopg.Error):
            return None, True

    def _hang_up(self, why: str) -> None:
        log.warning("%s: hanging up", why, extra={"event": "connection.silent", "migration": self._watched[0]})
        hang_up(self._conn)
