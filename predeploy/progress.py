"""What our session on the server is doing, seen from a second connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predeploy.lock import HOLDER_PID

if TYPE_CHECKING:
    from predeploy.postgres import Connection

# A pooler hides which backend is ours; the one that holds the migration lock is.
_STATE = f"""
    SELECT a.state, a.state_change::text, a.wait_event_type, a.wait_event,
           (SELECT json_agg(json_build_object('pid', b.pid, 'application_name', b.application_name,
                                              'user', b.usename, 'state', b.state,
                                              'transaction_age_s', round(extract(epoch FROM now() - b.xact_start))))
            FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))),
           p.phase, round(100.0 * p.blocks_done / nullif(p.blocks_total, 0), 1)::float8
    FROM pg_catalog.pg_stat_activity a
    LEFT JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = a.pid
    WHERE a.pid = coalesce(%s, ({HOLDER_PID}))
"""  # noqa: S608  our own constant
_FIELDS = ("wait_event_type", "wait_event", "blocked_by", "phase", "percent")


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
        if blockers := self.fields.get("blocked_by"):
            return "; blocked by " + ", ".join(
                f"{b['application_name'] or 'a session'} (pid {b['pid']}, {b['state']})" for b in blockers
            )
        if "phase" in self.fields:
            return f"; index build: {self.fields['phase']}, {self.fields.get('percent', 0):g} %"
        return ""


def look(conn: Connection, pid: int | None) -> Progress:
    """Ask on `conn` about the session with that process id; None for the one that holds the migration lock."""
    row = conn.execute(_STATE, [pid]).fetchone()
    if row is None:
        return Progress(pid is not None)
    told = {name: value for name, value in zip(_FIELDS, row[2:], strict=True) if value is not None}
    return Progress(pid is not None, row[0], row[1], told)
