"""Query the session's activity on the server, over a second connection. SQL text is never logged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predeploy.lock.advisory_lock import HOLDER_PID

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection

# Returns one row, even if the session does not exist. If a pooler hides the session's backend, the query reports on the
# backend that holds the migration lock. A session that is blocked on a row waits for the transaction that locked it,
# and holds a tuple lock on the row, which identifies the table. A blocking prepared transaction has pid 0.
_ACTIVITY = """
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
                ORDER BY s.xact_start NULLS LAST LIMIT {max_blockers}) b),
        'blockers', pg_catalog.cardinality(pg_catalog.pg_blocking_pids(a.pid)){views})
    FROM (SELECT {pid}::int AS pid) our
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = coalesce(our.pid, ({holder}))
"""
_MAX_BLOCKERS = 10
_LOGGED = ("wait_event_type", "wait_event", "waiting_for", "blocked_by")


@dataclass(frozen=True, slots=True)
class BackendActivity:
    """The session's `state`, the time of its last change (`since`), and the `fields` to log; None means unknown.

    `is_ours` is False if the activity is not that of this run's session, but of the holder of the migration lock.
    """

    is_ours: bool
    state: str | None = None
    since: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """Whether the server is waiting for the next message, or the session no longer exists."""
        return self.is_ours and (self.state is None or self.state.startswith("idle"))

    def __str__(self) -> str:
        parts = []
        if waiting := self.fields.get("waiting_for"):
            what = f"on {waiting['relation']}" if waiting["relation"] else f"({waiting['type']})"
            parts.append(f"waiting for {waiting['mode']} {what}")
        elif self.fields.get("wait_event") == "SyncRep":
            parts.append("waiting for a synchronous standby to confirm the commit")
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


def activity_query(conn: Connection, backend: int | None, reported: int) -> str:
    """Return the query to run on `conn` about the session with pid `backend`, or pid `reported` if `backend` is None.

    A pooler may report a made-up pid at login. If so, the pid reported to `conn`, which uses the same pooler, is also
    wrong, and the query is about the holder of the migration lock instead.
    """
    known = f"CASE WHEN pg_catalog.pg_backend_pid() = {conn.info.backend_pid} THEN {reported} END"
    columns = progress_columns(conn.info.server_version)
    parts = {"max_blockers": _MAX_BLOCKERS, "holder": HOLDER_PID, "views": columns}
    return _ACTIVITY.format(pid=backend or known, **parts)


def parse_activity(answer: bytes) -> BackendActivity:
    """Parse the result of `activity_query`."""
    row = json.loads(answer)
    fields = {name: row[name] for name in _LOGGED if row[name] is not None}
    if (blockers := row["blockers"] or 0) > _MAX_BLOCKERS:
        fields["blockers"] = blockers
    return BackendActivity(row["is_ours"], row["state"], row["since"], fields | progress_fields(row))


def _blocker(blocker: dict[str, Any]) -> str:
    if not blocker["pid"]:
        return "a prepared transaction (see pg_prepared_xacts)"
    state = blocker["state"] or "state visible only to its role, a superuser or pg_monitor"
    if blocker["transaction_age_s"] is not None:
        state += f", in a transaction for {blocker['transaction_age_s']:.0f} s"
    return f"{blocker['application_name'] or 'a session'} (pid {blocker['pid']}, {state})"


# The pg_stat_progress_* views, except basebackup, and the first server version that provides each one.
_VIEWS = {"create_index": 120000, "cluster": 120000, "vacuum": 90600, "analyze": 130000, "copy": 140000}


def progress_columns(server_version: int) -> str:
    """Return json_build_object arguments for the row of `a.pid` in each progress view of this server version."""
    return "".join(
        f", '{name}', (SELECT row_to_json(p) FROM pg_catalog.pg_stat_progress_{name} p WHERE p.pid = a.pid LIMIT 1)"  # noqa: S608  constants
        for name, since in _VIEWS.items()
        if server_version >= since
    )


def progress_fields(activity: dict[str, Any]) -> dict[str, Any]:
    """Return `operation`, `phase`, `percent`, and counts named `*_done` and `*_total`; omit unknown values."""
    for name, read in _READERS.items():
        if row := activity.get(name):
            return {key: value for key, value in read(row).items() if value is not None}
    return {}


def _create_index(row: dict[str, Any]) -> dict[str, Any]:
    phase = row["phase"]
    if phase.startswith("waiting"):
        counts = _counts("lockers", row["lockers_done"], row["lockers_total"])
    elif row["blocks_total"]:
        counts = _counts("blocks", row["blocks_done"], row["blocks_total"])
    else:
        counts = _counts("tuples", row["tuples_done"], row["tuples_total"])
    partitions = _counts("partitions", row["partitions_done"], row["partitions_total"])
    return {"operation": row["command"], "phase": phase, **partitions, **counts}


def _cluster(row: dict[str, Any]) -> dict[str, Any]:
    blocks = _counts("blocks", row["heap_blks_scanned"], row["heap_blks_total"])
    tuples = {"tuples_done": row["heap_tuples_written"] or None}
    return {"operation": row["command"], "phase": row["phase"], **blocks, **tuples}


def _vacuum(row: dict[str, Any]) -> dict[str, Any]:
    done = row["heap_blks_vacuumed" if row["phase"] == "vacuuming heap" else "heap_blks_scanned"]
    return {"operation": "VACUUM", "phase": row["phase"], **_counts("blocks", done, row["heap_blks_total"])}


def _analyze(row: dict[str, Any]) -> dict[str, Any]:
    blocks = _counts("blocks", row["sample_blks_scanned"], row["sample_blks_total"])
    return {"operation": "ANALYZE", "phase": row["phase"], **blocks}


def _copy(row: dict[str, Any]) -> dict[str, Any]:
    of_bytes = _counts("bytes", row["bytes_processed"], row["bytes_total"])
    return {
        "operation": row["command"],
        "bytes_done": row["bytes_processed"],
        "tuples_done": row["tuples_processed"],
        **of_bytes,
    }


def _counts(what: str, done: int, total: int) -> dict[str, Any]:
    if not total:
        return {}
    return {"percent": round(100.0 * done / total, 1), f"{what}_done": done, f"{what}_total": total}


_READERS = {
    "create_index": _create_index,
    "cluster": _cluster,
    "vacuum": _vacuum,
    "analyze": _analyze,
    "copy": _copy,
}
