"""Whether the database answers, told within five seconds whatever it or the network does."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from predeploy.errors import StorageError
from predeploy.postgres import within

if TYPE_CHECKING:
    from predeploy.postgres import Connection, ConnectionSource

HEALTH_TIMEOUT_S = 4.5  # with what surrounds it, an answer stands after 5 s


@dataclass(frozen=True, slots=True)
class DbHealth:
    """Whether the server answered `SELECT 1`, how long it took in milliseconds, and why not."""

    ok: bool
    latency_ms: float
    error: str | None = None


def check_db_health(db: ConnectionSource) -> DbHealth:
    """Run `SELECT 1`, at most 5 s in all, whatever the server or the network does; never raise."""
    started = time.monotonic()
    borrowed: list[Connection] = []

    def select_one() -> None:
        with db.connection(timeout=HEALTH_TIMEOUT_S - 0.2) as conn:
            borrowed.append(conn)
            conn.execute("SELECT 1")

    try:
        within(HEALTH_TIMEOUT_S, select_one)
    except TimeoutError:
        _hang_up(borrowed)
        error: str | None = f"no answer within {HEALTH_TIMEOUT_S:g} s"
    except Exception as failure:
        error = _why(db, failure)
    else:
        error = None
    return DbHealth(error is None, round((time.monotonic() - started) * 1000, 3), error)


def _why(db: ConnectionSource, failure: Exception) -> str:
    reason = getattr(getattr(db, "connection_class", None), "failure", None) or failure
    if isinstance(reason, StorageError):
        return str(reason)
    sqlstate = getattr(reason, "sqlstate", None)
    return f"{type(reason).__name__}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")


def _hang_up(borrowed: list[Connection]) -> None:
    """End the hung query's thread: with its socket shut down the wait fails and a pool drops the connection."""
    for conn in borrowed:
        with suppress(OSError, psycopg.Error), socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end:
            end.shutdown(socket.SHUT_RDWR)
