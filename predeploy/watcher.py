"""What a migration that takes long is doing, and who blocks it, told from a second connection."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import psycopg

from predeploy.errors import StorageError

if TYPE_CHECKING:
    from predeploy.postgres import Connection, ConnectionSource

log = logging.getLogger(__name__)

FIRST_AFTER_S = 5.0
LONGEST_INTERVAL_S = 60.0
_TICK_S = 0.5
_CONNECT_TIMEOUT_S = 3.0

_STATE = """
    SELECT a.wait_event_type, a.wait_event,
           (SELECT json_agg(json_build_object('pid', b.pid, 'application_name', b.application_name,
                                              'user', b.usename, 'state', b.state,
                                              'transaction_age_s', round(extract(epoch FROM now() - b.xact_start))))
            FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))),
           p.phase, round(100.0 * p.blocks_done / nullif(p.blocks_total, 0), 1)::float8
    FROM pg_catalog.pg_stat_activity a
    LEFT JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = a.pid
    WHERE a.pid = %s
"""


class Watcher:
    """Writes `migration.progress` after 5 s, then at doubling intervals of at most 60 s; its failures harm nobody."""

    def __init__(self, db: ConnectionSource, pid: int) -> None:
        self._db = db
        self._pid = pid
        self._watched: tuple[str, float] | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="pg-predeploy-watcher", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # without waiting: it may be in the middle of a login

    def watch(self, migration: str) -> None:
        """Say which migration runs from now on."""
        self._watched = (migration, time.monotonic())

    def _run(self) -> None:
        told: tuple[str, float] | None = None
        due = FIRST_AFTER_S
        while not self._ended.wait(_TICK_S):
            watched = self._watched
            if watched is None:
                continue
            if watched != told:
                told, due = watched, FIRST_AFTER_S
            elapsed = time.monotonic() - watched[1]
            if elapsed >= due:
                due = elapsed + min(elapsed, LONGEST_INTERVAL_S)
                self._tell(*watched)

    def _tell(self, migration: str, started: float) -> None:
        try:
            with self._db.connection(timeout=_CONNECT_TIMEOUT_S) as conn:
                seen = _look(conn, self._pid)
        except (StorageError, psycopg.Error):
            seen = {}
        if self._ended.is_set() or self._watched != (migration, started):
            return
        elapsed_s = round(time.monotonic() - started, 1)
        log.info(
            "%s has run for %.0f s%s",
            migration,
            elapsed_s,
            _describe(seen),
            extra={"event": "migration.progress", "migration": migration, "elapsed_s": elapsed_s, **seen},
        )


def _look(conn: Connection, pid: int) -> dict[str, Any]:
    row = conn.execute(_STATE, [pid]).fetchone()
    names = ("wait_event_type", "wait_event", "blocked_by", "phase", "percent")
    return {name: value for name, value in zip(names, row or (), strict=False) if value is not None}


def _describe(seen: dict[str, Any]) -> str:
    if blockers := seen.get("blocked_by"):
        return "; blocked by " + ", ".join(
            f"{b['application_name'] or 'a session'} (pid {b['pid']}, {b['state']})" for b in blockers
        )
    if "phase" in seen:
        return f"; index build: {seen['phase']}, {seen.get('percent', 0):g} %"
    return ""
