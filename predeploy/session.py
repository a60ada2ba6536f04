"""What our session on the server is like: set up, cleaned after each file, one message a time, results as they come."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.pq.abc import PGresult

    from predeploy.postgres import Connection

log = logging.getLogger(__name__)

# All that a file can leave behind but the advisory lock, which DISCARD ALL would drop. The first brings the role back
# too, that of ALTER ROLE ... SET role included.
_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;DEALLOCATE ALL;"
    "DISCARD PLANS;DISCARD TEMP;DISCARD SEQUENCES;"
)
# A server from 14 on notices within a second that a client was killed; a value that somebody has set is kept.
_SETTINGS = (
    "SET default_transaction_isolation='read committed';SET standard_conforming_strings=on;"
    "SELECT set_config('client_connection_check_interval','1s',false)"
    " WHERE current_setting('client_connection_check_interval',true)='0';"
)
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


def setup_sql(*, lock_timeout: float, statement_timeout: float) -> str:
    """Return what a session starts with; a timeout of 0 leaves what the role or the database sets."""
    timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return _SETTINGS + "".join(f"SET {name}={max(round(s * 1000), 1)};" for name, s in timeouts.items() if s > 0)


def reset_sql(setup: str) -> str:
    """Return what cleans the session of what a file left behind and sets it up again."""
    return _RESET + setup


def results(conn: Connection, message: str) -> Iterator[PGresult]:
    """Send SQL as one simple-query message and yield each statement's result as the server hands it over.

    Raise the server's error in place of the result of the statement that failed; the server has then dropped the
    rest of the message. An interruption cancels the statement on the server before it travels on.
    """
    pgconn = conn.pgconn
    with conn.lock:
        try:
            pgconn.send_query(message.encode())
            conn.wait(generators.send(pgconn))
            while result := conn.wait(generators.fetch(pgconn)):
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    raise error_from_result(result)
                if result.status in _COPYING:  # unreachable through the guard; the protocol cannot go on from here
                    conn.close()
                    raise psycopg.OperationalError("COPY to or from the client is not possible in a migration")
                yield result
        finally:
            _drain(conn)


def run(conn: Connection, message: str) -> list[PGresult]:
    """Send SQL as one simple-query message and return the results of its statements."""
    return list(results(conn, message))


def _drain(conn: Connection) -> None:
    while not conn.closed and conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        if conn.wait(generators.fetch(conn.pgconn)) is None:
            break


def is_lost(conn: Connection) -> bool:
    """Tell whether the connection is gone; an SQLSTATE cannot tell, a healthy server may send any to a file."""
    return conn.closed or conn.broken or conn.pgconn.status == pq.ConnStatus.BAD


def recover(conn: Connection, setup: str) -> None:
    """After a failed file: end its transaction and clean the session."""
    if conn.pgconn.transaction_status in {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}:
        run(conn, "ROLLBACK")
    run(conn, reset_sql(setup))


def roll_back(conn: Connection) -> None:
    """Leave no transaction open behind an interruption; what cannot be rolled back is closed."""
    if is_lost(conn) or conn.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        run(conn, "ROLLBACK")
    except psycopg.Error:
        conn.close()


@contextmanager
def own_manners(conn: Connection) -> Iterator[None]:
    """Borrow a connection in autocommit mode and without prepared statements, and give it back as it was."""
    autocommit, prepare_threshold = conn.autocommit, conn.prepare_threshold
    conn.autocommit, conn.prepare_threshold = True, None
    try:
        yield
    finally:
        if not is_lost(conn):
            conn.autocommit, conn.prepare_threshold = autocommit, prepare_threshold
