"""Describe the holder of the migration lock, and what an operator can do. The holder's query is never logged.

The query for the holder runs only while a run waits for the lock. Like the polling, it runs in autocommit mode.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from predeploy.errors import LockTimeout
from predeploy.log.throttle import LogThrottle

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
MAX_LOG_EVERY_S = 60.0
_LOOK_EVERY_S = 1.0
_STEADY_S = 2.0  # a working runner alternates between idle and active many times a second
_FIELDS = (
    "pid",
    "application_name",
    "user",
    "client_addr",
    "state",
    "since",
    "state_age_s",
    "transaction_age_s",
    "age_s",
)
_HOLDER = """
    SELECT l.pid, a.application_name, a.usename, host(a.client_addr), a.state,
           to_char(a.state_change AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           round(extract(epoch FROM clock_timestamp() - a.state_change)::numeric, 1)::float8,
           round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1)::float8,
           round(extract(epoch FROM clock_timestamp() - a.backend_start)::numeric, 1)::float8
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE {held}
    ORDER BY l.pid LIMIT 1
"""

Holder = dict[str, Any]


class LockWait:
    """A wait for the lock on `conn`, for at most `timeout` seconds.

    `held` is the SQL condition that identifies the lock in `pg_locks l`. A line is logged immediately, again when
    another session takes the lock or the holder settles into a new state, and otherwise at intervals that double from
    10 s to 60 s.
    """

    def __init__(self, conn: Connection, held: str, timeout: float) -> None:
        self._conn = conn
        self._question = _HOLDER.format(held=held)
        self._timeout = timeout
        self._throttle = LogThrottle(LOG_EVERY_S, MAX_LOG_EVERY_S)
        self._reported: tuple[int | None, str | None] | None = None
        self._look_at = 0.0

    def report(self, waited: float) -> None:
        """Look up the holder, at most once a second, and log it if a log line is due; `waited` is in seconds."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        holder = self._holder()
        self._reported = self._subject(holder)
        if self._throttle.should_log(self._reported):
            left_s = round(max(self._timeout - waited, 0), 1)
            fields = {"wait_s": round(waited, 1), "left_s": left_s, "timeout_s": self._timeout, "holder": holder}
            log.warning("Waiting for the migration lock: %s", _name(holder), extra={"event": "lock.waiting", **fields})

    def timeout_error(self) -> LockTimeout:
        """Return the error that ends the wait, with the holder, its likely state, and the SQL to end its session."""
        holder = self._holder()
        message = f"Timed out after {self._timeout:g} s waiting for the migration lock. It is {_name(holder)}."
        if not holder or not holder["pid"]:
            return LockTimeout(message)
        statement = f"SELECT pg_terminate_backend({holder['pid']});"
        return LockTimeout(f"{message} {_advice(holder)} {statement}", statement)

    def _holder(self) -> Holder | None:
        row = self._conn.execute(self._question).fetchone()
        return dict(zip(_FIELDS, row, strict=True)) if row else None

    def _subject(self, holder: Holder | None) -> tuple[int | None, str | None]:
        """Return the pid and state to report: the last reported ones unless the holder or its steady state changed."""
        if holder is None:
            return self._reported or (None, None)
        now = (holder["pid"], holder["state"])
        if self._reported and self._reported[0] == now[0] and (holder["state_age_s"] or 0) < _STEADY_S:
            return self._reported
        return now


def _name(holder: Holder | None) -> str:
    if holder is None:
        return "free again"
    if not holder["pid"]:
        return "held by a prepared transaction (see pg_prepared_xacts)"
    facts = [f"pid {holder['pid']}"]
    if holder["user"]:
        facts.append("user " + " ".join(holder["user"].split()))
    if holder["client_addr"]:
        facts.append(f"from {holder['client_addr']}")
    if holder["state"] is None:
        facts.append("state visible only to its role, a superuser or pg_monitor")
    else:
        facts.append(f"{holder['state']} for {holder['state_age_s'] or 0:.0f} s")
        if holder["transaction_age_s"]:
            facts.append(f"in a transaction for {holder['transaction_age_s']:.0f} s")
        facts.append(f"connected for {holder['age_s'] or 0:.0f} s")
    return f"held by {holder['application_name'] or 'a session with no application_name'} ({', '.join(facts)})"


def _advice(holder: Holder) -> str:
    """Return the holder's likely state and what to check; the caller appends the SQL."""
    runner = (holder["application_name"] or "").startswith("pg-predeploy/")
    state = holder["state"]
    if state is None:
        return "Ask a superuser whether this session is a working runner. If it is not, end it as the superuser:"
    if state.startswith("idle in transaction"):
        looks = "The session seems to have left its transaction open."
    elif state != "idle":
        looks = f"The session seems to be {'a working runner' if runner else 'making progress'}."
        return f"{looks} Check its log and let it finish. End it only if it will never finish:"
    else:
        looks = f"The session seems to be {'a stuck runner' if runner else 'abandoned'}."
    return f"{looks} If no running process owns it, end it and run pg-predeploy again:"
