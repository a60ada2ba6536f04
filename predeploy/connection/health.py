"""Check whether the database responds to `SELECT 1` within five seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.background import call_with_timeout
from predeploy.connection.session import shut_down
from predeploy.errors import PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource

HEALTH_TIMEOUT_S = 4.5  # leaves half a second of the 5 s for the rest of the check
_MAX_DEAD = 20  # how many dead pooled connections to skip


@dataclass(frozen=True, slots=True)
class DbHealth:
    """Whether the server responded to `SELECT 1`, the latency in milliseconds, and the error, if any."""

    ok: bool
    latency_ms: float
    error: str | None = None


def check_db_health(db: ConnectionSource) -> DbHealth:
    """Run `SELECT 1` and return the outcome within 5 s; never raise."""
    started = time.monotonic()
    deadline = started + HEALTH_TIMEOUT_S
    borrowed: list[Connection] = []

    def select_one() -> None:
        for _ in range(_MAX_DEAD):
            with db.connection(timeout=max(deadline - time.monotonic() - 0.2, 0)) as conn:
                borrowed[:] = [conn]
                try:
                    conn.execute("SELECT 1")
                except psycopg.OperationalError:
                    if not conn.closed or time.monotonic() >= deadline:
                        raise
                    # The connection may have died in the pool when the server restarted; try another connection.
                else:
                    return
                finally:
                    borrowed.clear()
        raise PostgresUnavailable("the server closes every connection", "closed")

    try:
        call_with_timeout(HEALTH_TIMEOUT_S, select_one)
    except TimeoutError:
        for conn in borrowed:
            shut_down(conn)  # a pool drops the connection when it is returned
        error: str | None = f"no response within {HEALTH_TIMEOUT_S:g} s"
    except Exception as failure:
        error = _why(failure)
    else:
        error = None
    return DbHealth(error is None, round((time.monotonic() - started) * 1000, 3), error)


def _why(failure: Exception) -> str:
    if isinstance(failure, StorageError):
        return str(failure)
    if type(failure).__name__ == "PoolTimeout":  # by name, because psycopg_pool may not be imported
        return "timed out waiting for a free connection from the pool"
    sqlstate = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")
