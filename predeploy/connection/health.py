"""Whether the database answers, told within five seconds whatever it or the network does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.background import within
from predeploy.connection.session import hang_up
from predeploy.errors import PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource

HEALTH_TIMEOUT_S = 4.5  # with what surrounds it, an answer stands after 5 s
_MOST_DEAD = 20  # connections that are passed over


@dataclass(frozen=True, slots=True)
class DbHealth:
    """Whether the server answered `SELECT 1`, how long it took in milliseconds, and why not."""

    ok: bool
    latency_ms: float
    error: str | None = None


def check_db_health(db: ConnectionSource) -> DbHealth:
    """Run `SELECT 1`, at most 5 s in all, whatever the server or the network does; never raise."""
    started = time.monotonic()
    deadline = started + HEALTH_TIMEOUT_S
    borrowed: list[Connection] = []

    def select_one() -> None:
        for _ in range(_MOST_DEAD):
            with db.connection(timeout=max(deadline - time.monotonic() - 0.2, 0)) as conn:
                borrowed[:] = [conn]
                try:
                    conn.execute("SELECT 1")
                except psycopg.OperationalError:
                    if not conn.closed or time.monotonic() >= deadline:
                        raise
                    # It may have died in the pool, of a restart: that is not the server that answers now.
                else:
                    return
                finally:
                    borrowed.clear()
        raise PostgresUnavailable("the server ends every session", "closed")

    try:
        within(HEALTH_TIMEOUT_S, select_one)
    except TimeoutError:
        for conn in borrowed:
            hang_up(conn)  # a pool drops the connection then
        error: str | None = f"no answer within {HEALTH_TIMEOUT_S:g} s"
    except Exception as failure:
        error = _why(failure)
    else:
        error = None
    return DbHealth(error is None, round((time.monotonic() - started) * 1000, 3), error)


def _why(failure: Exception) -> str:
    if isinstance(failure, StorageError):
        return str(failure)
    if type(failure).__name__ == "PoolTimeout":  # not imported, for those who have no pool
        return "no connection of the pool was free in time"
    sqlstate = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")
