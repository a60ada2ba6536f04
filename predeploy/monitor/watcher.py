"""Watch unanswered messages in a background thread: log progress, and close a dead connection.

A stopped server or a stuck proxy still acknowledges packets but never responds, so neither keepalives nor timeouts end
the wait. Only a second connection can distinguish such a peer from a slow statement.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import pq

from predeploy.connection.session import shut_down
from predeploy.errors import StorageError
from predeploy.monitor.second_connection import SecondConnection
from predeploy.monitor.statement_counter import StatementCounter

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.monitor.activity import BackendActivity

log = logging.getLogger(__name__)

CHECK_AFTER_S = 5.0  # time without a response before the first check of the server
MAX_INTERVAL_S = 60.0
GIVE_UP_AFTER_S = 15.0  # time without a response to any login
_TICK_S = 0.5
_JOIN_S = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """A migration, its start time (monotonic) and its counter; `migration` is None if no migration is running."""

    migration: str | None = None
    started: float = field(default_factory=time.monotonic)
    counter: StatementCounter = field(default_factory=StatementCounter)


class _Intervals:
    """Due after `first` seconds, then at intervals that double up to 60 s."""

    def __init__(self, first: float) -> None:
        self._due = first

    def is_due(self, elapsed: float) -> bool:
        return elapsed >= self._due

    def restart(self, elapsed: float) -> None:
        self._due = elapsed + min(elapsed, MAX_INTERVAL_S)


class Watcher:
    """Watches `conn` over a second connection, which it opens for the first check and closes after each migration.

    Logs `migration.progress` at growing intervals once a migration has run for `log_after` seconds (0 = never). Checks
    every message that has had no response for 5 s. Closes `conn`, which is then treated as lost, if the server does not
    respond at all for 15 s, or if the server is idle while the program waits for a response.
    """

    def __init__(self, db: ConnectionSource, conn: Connection, *, log_after: float = 5.0) -> None:
        self._conn = conn
        self._log_after = log_after
        self.backend: int | None = None  # the pid reported by the server, once known
        self._watched = _Watched()
        self._thread = threading.Thread(target=self._run, name="pg-predeploy-watcher", daemon=True)
        self._ended = threading.Event()
        self._second = SecondConnection(db)
        self._is_open = False
        self._asked = 0.0  # when the message was sent or its last result arrived
        self._silent_since: float | None = None
        self._idle: BackendActivity | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._is_open:  # do not wait longer: the thread may be logging in
            self._thread.join(_JOIN_S)

    def watch(self, migration: str | None, counter: StatementCounter) -> None:
        """Watch this migration instead of the previous one."""
        self._watched = _Watched(migration, time.monotonic(), counter)

    def _run(self) -> None:
        watched, results, waiting = self._watched, 0, False
        progress, silence = _Intervals(self._log_after), _Intervals(CHECK_AFTER_S)
        while not self._ended.wait(_TICK_S):
            if watched is not self._watched:
                watched, waiting = self._watched, False
                progress = _Intervals(self._log_after)
                self._second.close()
            if not self._is_waiting():
                waiting = False
                continue
            if not waiting or results != watched.counter.results:
                waiting, results, silence = True, watched.counter.results, _Intervals(CHECK_AFTER_S)
                self._asked, self._silent_since, self._idle = time.monotonic(), None, None
            now = time.monotonic()
            logs = bool(watched.migration and self._log_after) and progress.is_due(now - watched.started)
            checks = silence.is_due(now - self._asked) or self._silent_since is not None or self._idle is not None
            if logs or checks:
                self._check(watched, results, logs=logs)
            if logs:
                progress.restart(time.monotonic() - watched.started)
            if checks:
                silence.restart(time.monotonic() - self._asked)
        self._second.close()

    def _is_waiting(self) -> bool:
        try:
            return self._conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        except psycopg.Error:  # closed
            return False

    def _check(self, watched: _Watched, results: int, *, logs: bool) -> None:
        started = time.monotonic()
        try:
            activity, answered = self._read_activity(), True
        except TimeoutError:
            activity, answered = None, False
        except (StorageError, psycopg.Error, OSError, ValueError, LookupError):  # must not end the run
            activity, answered = None, True
        if self._ended.is_set() or self._watched is not watched or not self._is_waiting():
            return
        if results == watched.counter.results:
            self._check_liveness(activity, started, answered=answered)
        if logs and answered and not (activity and activity.is_idle):
            _log_progress(watched, activity)

    def _check_liveness(self, activity: BackendActivity | None, started: float, *, answered: bool) -> None:
        """Close a dead connection, but only after at least two checks, the first after 5 s."""
        now = time.monotonic()
        if now - self._asked < CHECK_AFTER_S:
            return
        self._silent_since = None if answered else self._silent_since or max(started, self._asked + CHECK_AFTER_S)
        if self._silent_since is not None and now - self._silent_since >= GIVE_UP_AFTER_S:
            self._shut_down(
                f"No response from Postgres for {GIVE_UP_AFTER_S:g} s, on this connection or a new one; "
                "closing the connection"
            )
        idle = activity if activity and activity.is_idle else None
        if idle and idle == self._idle:
            self._shut_down(
                "The connection is dead: the server session is idle, but its response never arrived; closing it"
            )
        self._idle = idle

    def _read_activity(self) -> BackendActivity | None:
        """Return the session's activity, or None if there is no result. Raise TimeoutError if the server is silent."""
        from predeploy.monitor.activity import activity_query, parse_activity  # rarely needed: most runs end first

        self._is_open = True
        reported = self._conn.pgconn.backend_pid
        answer = self._second.query(lambda other: activity_query(other, self.backend, reported))
        return parse_activity(answer) if answer else None

    def _shut_down(self, why: str) -> None:
        log.warning("%s", why, extra={"event": "connection.silent", "migration": self._watched.migration})
        shut_down(self._conn)


def _log_progress(watched: _Watched, activity: BackendActivity | None) -> None:
    elapsed_s = round(time.monotonic() - watched.started, 1)
    place = watched.counter.fields()
    fields = {"migration": watched.migration, "elapsed_s": elapsed_s, **place, **(activity.fields if activity else {})}
    is_waiting = bool(place and activity and "waiting_for" in activity.fields)
    sentence = (" is " if is_waiting else ", ").join(filter(None, [_describe_place(place), str(activity or "")]))
    log.info(
        "Still running %s after %.0f s%s",
        watched.migration,
        elapsed_s,
        f": {sentence}" if sentence else "",
        extra={"event": "migration.progress", **fields},
    )


def _describe_place(place: dict[str, Any]) -> str:
    of = f" of {place['statements']}" if "statements" in place else ""
    if "statement" in place:
        what = ", ".join(filter(None, [place.get("command"), f"line {place['line']}"]))
        return f"statement {place['statement']}{of} ({what})"
    if "statement_at_least" in place:
        return f"statement {place['statement_at_least']}{of} or later"
    return ""
