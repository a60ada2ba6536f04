"""What our session on the server is doing, seen from a second connection; no query is ever told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predeploy.lock.advisory_lock import HOLDER_PID
from predeploy.monitor.progress_views import fields_of, views

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection

# One row, whether the session is there or not. A pooler hides which backend is ours; the one that holds the migration
# lock is. Who waits for a row waits for a transaction, and has locked the row's place in its table. The prepared
# transaction that blocks has the process id 0.
_SEEN = """
    SELECT json_build_object(
        'is_ours', our.pid IS NOT NULL,
        'state', a.state,
        'since', a.state_change::text,
        'wait_event_type', a.wait_event_type,
        'wait_event', a.wait_event,
        'waiting_for', (
            SELECT json_build_object('mode', w.mode, 'type', w.locktype, 'relation', (
                SELECT t.relation::regclass::text FROM pg_catalog.pg_locks t
                WHERE t.pid = a.pid AND t.relation IS NOT NULL
                AND t.database IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
                AND (NOT t.granted OR (w.relation IS NULL AND t.locktype = 'tuple'))
                ORDER BY t.granted LIMIT 1))
            FROM pg_catalog.pg_locks w WHERE w.pid = a.pid AND NOT w.granted LIMIT 1),
        'blocked_by', (
            SELECT json_agg(json_build_object(
                'pid', b.pid, 'application_name', b.application_name, 'user', b.usename, 'state', b.state,
                'transaction_age_s', b.transaction_age_s))
            FROM (
                SELECT p.pid, s.application_name, s.usename, s.state,
                       round(extract(epoch FROM clock_timestamp() - s.xact_start)::numeric, 1) AS transaction_age_s
                FROM (SELECT DISTINCT unnest(pg_catalog.pg_blocking_pids(a.pid)) AS pid) p
                LEFT JOIN pg_catalog.pg_stat_activity s ON s.pid = p.pid
                ORDER BY s.xact_start NULLS LAST LIMIT {most}) b),
        'blockers', pg_catalog.cardinality(pg_catalog.pg_blocking_pids(a.pid)){views})
    FROM (SELECT {pid}::int AS pid) our
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = coalesce(our.pid, ({holder}))
"""
_MOST_BLOCKERS = 10
_LOGGED = ("wait_event_type", "wait_event", "waiting_for", "blocked_by")


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at the session: `state` and since when, None where the server knows no such session; `fields` to log.

    Unless it `is_ours` for sure, it is that of the lock's holder.
    """

    is_ours: bool
    state: str | None = None
    since: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """Whether the server is waiting for us."""
        return self.is_ours and (self.state is None or self.state.startswith("idle"))

    def __str__(self) -> str:
        parts = []
        if waiting := self.fields.get("waiting_for"):
            what = f"on {waiting['relation']}" if waiting["relation"] else f"({waiting['type']})"
            parts.append(f"waits for {waiting['mode']} {what}")
        if blockers := self.fields.get("blocked_by"):
            parts.append("blocked by " + ", ".join(map(_blocker, blockers)))
            if (more := self.fields.get("blockers", 0) - len(blockers)) > 0:
                parts.append(f"and {more} more")
        if operation := self.fields.get("operation"):
            phase = self.fields.get("phase")
            parts.append(f"{operation}: {phase}" if phase else operation)
            if "percent" in self.fields:
                parts.append(f"{self.fields['percent']:g} %")
            elif "tuples_done" in self.fields:
                parts.append(f"{self.fields['tuples_done']} rows")
        return ", ".join(parts)


def question(conn: Connection, backend: int | None, told: int) -> str:
    """Return what to ask on `conn` about the session of `backend`; where that is not known, of the one `told` at login.

    That may be made up by a pooler, as `conn`, made alike, shows: then about whoever holds the migration lock.
    """
    known = f"CASE WHEN pg_catalog.pg_backend_pid() = {conn.info.backend_pid} THEN {told} END"
    parts = {"most": _MOST_BLOCKERS, "holder": HOLDER_PID, "views": views(conn.info.server_version)}
    return _SEEN.format(pid=backend or known, **parts)


def read(answer: bytes) -> Progress:
    """Read the answer to the question."""
    seen = json.loads(answer)
    told = {name: seen[name] for name in _LOGGED if seen[name] is not None}
    if (blockers := seen["blockers"] or 0) > _MOST_BLOCKERS:
        told["blockers"] = blockers
    return Progress(seen["is_ours"], seen["state"], seen["since"], told | fields_of(seen))


def _blocker(blocker: dict[str, Any]) -> str:
    if not blocker["pid"]:
        return "a prepared transaction (see pg_prepared_xacts)"
    state = blocker["state"] or "another role's session, whose state only that role, a superuser or pg_monitor sees"
    if blocker["transaction_age_s"] is not None:
        state += f", its transaction {blocker['transaction_age_s']:.0f} s old"
    return f"{blocker['application_name'] or 'a session'} (pid {blocker['pid']}, {state})"
