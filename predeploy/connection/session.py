"""What our session on the server is like: set up, cleaned after each file, one message a time, results as they come."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from psycopg.pq.abc import PGresult

    from predeploy.connection.connect import Connection

log = logging.getLogger(__name__)

# All that a file can leave behind but the advisory lock, which DISCARD ALL would drop. The first brings the role back
# too, that of ALTER ROLE ... SET role included.
_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;DISCARD PLANS;DISCARD TEMP;DISCARD SEQUENCES;"
)
_DEALLOCATE = "DEALLOCATE ALL;"
# A server from 14 on notices within a second that a client was killed; a value that somebody has set is kept.
_CHECK_INTERVAL = (
    "SELECT set_config('client_connection_check_interval','1s',{local})"
    " WHERE current_setting('client_connection_check_interval',true)='0';"
)
# And a client whose network is gone, in milliseconds or seconds as Postgres counts them: by default after two hours,
# for which it would keep the lock.
_SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
COMMIT = "COMMIT;"
_CANCEL_S = 5.0
_STRINGS = "SET standard_conforming_strings=on;"
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


class Frame(NamedTuple):
    """What goes around a file: `begin`, of so many `begin_statements`, its claim, the file, COMMIT, `reset`.

    `setup` comes once, before the first file. `shared`: every transaction may meet another session of the server, so
    that what a session would keep stands in `begin`, and `reset` leaves nothing behind for other clients. `commit`
    is what a rehearsal replaces.
    """

    setup: str
    begin: str
    begin_statements: int
    reset: str
    shared: bool = False
    commit: str = COMMIT


def own_frame(*, lock_timeout: float, statement_timeout: float, options: str = "") -> Frame:
    """Return the frame for a session of our own; a timeout of 0 leaves what the role or the database sets.

    What the connection string's `options` set of the server's keepalives is kept.
    """
    settings = [f"{name}={value}" for name, value in _SERVER_KEEPALIVES.items() if name not in options]
    settings += ["default_transaction_isolation='read committed'", *_timeouts(lock_timeout, statement_timeout)]
    setup = f"{_STRINGS}{_CHECK_INTERVAL.format(local='false')}" + "".join(f"SET {setting};" for setting in settings)
    return Frame(setup, "BEGIN;", 1, f"{_RESET}{_DEALLOCATE}{setup}")


def shared_frame(*, lock_timeout: float, statement_timeout: float) -> Frame:
    """Return the frame for a session that a pooler shares among its clients.

    Of a session's settings it keeps for each client only those two that Postgres reports. Prepared statements are
    left alone: they may be other clients'.
    """
    local = [f"SET LOCAL {setting};" for setting in _timeouts(lock_timeout, statement_timeout)]
    begin = ["BEGIN ISOLATION LEVEL READ COMMITTED;", _CHECK_INTERVAL.format(local="true"), *local]
    setup = f"SET client_encoding='UTF8';{_STRINGS}"
    reset = f"{_RESET}SELECT pg_catalog.pg_advisory_unlock_all();{setup}"
    return Frame(setup, "".join(begin), len(begin), reset, shared=True)


def _timeouts(lock_timeout: float, statement_timeout: float) -> list[str]:
    timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return [f"{name}={max(round(s * 1000), 1)}" for name, s in timeouts.items() if s > 0]


def results(
    conn: Connection, message: str, meanwhile: Callable[[], None] = lambda: None
) -> Generator[PGresult, None, None]:
    """Send SQL as one simple-query message and yield each statement's result as the server hands it over.

    Raise the server's error in place of the result of the statement that failed; the server has then dropped the
    rest of the message. While it works on it `meanwhile` is called, once. An interruption cancels the statement on the
    server before it travels on, one of `meanwhile` and one of whoever reads the results, too.
    """
    pgconn = conn.pgconn
    with conn.lock:
        try:
            pgconn.send_query(message.encode())
            conn.wait(generators.send(pgconn))
            _do(meanwhile, conn)
            while result := conn.wait(generators.fetch(pgconn)) if pgconn.is_busy() else pgconn.get_result():
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    raise error_from_result(result)
                if result.status in _COPYING:  # unreachable through the guard; the protocol cannot go on from here
                    conn.close()
                    raise psycopg.OperationalError("COPY to or from the client is not possible in a migration")
                yield result
        except GeneratorExit:
            _cancel(conn)
            raise
        finally:
            with suppress(psycopg.Error):  # raised in place of a signal it would make the run go on
                _drain(conn)


def run(conn: Connection, message: str) -> list[PGresult]:
    """Send SQL as one simple-query message and return the results of its statements."""
    return list(results(conn, message))


def _do(meanwhile: Callable[[], None], conn: Connection) -> None:
    try:
        meanwhile()
    except BaseException:
        _cancel(conn)
        raise


def _cancel(conn: Connection) -> None:
    if conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        with suppress(psycopg.Error):  # a line that is gone; what is raised travels on
            conn.cancel_safe(timeout=_CANCEL_S)


def _drain(conn: Connection) -> None:
    while not conn.closed and conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        if conn.wait(generators.fetch(conn.pgconn)) is None:
            break


def is_lost(conn: Connection) -> bool:
    """Tell whether the connection is gone; an SQLSTATE cannot tell, a healthy server may send any to a file."""
    return conn.closed or conn.broken or conn.pgconn.status == pq.ConnStatus.BAD


def recover(conn: Connection, frame: Frame) -> None:
    """After a failed file: end its transaction and clean the session, in one message as it may be shared."""
    if _is_in_transaction(conn) or not frame.shared:
        _clean(conn, frame)


def clean_up(conn: Connection, frame: Frame) -> None:
    """After a committed file whose reset was disturbed: reset once more, or close the connection."""
    try:
        _clean(conn, frame)
    except psycopg.Error:
        conn.close()
        raise


def _clean(conn: Connection, frame: Frame) -> None:
    run(conn, ("ROLLBACK;" if _is_in_transaction(conn) else "") + frame.reset)


def _is_in_transaction(conn: Connection) -> bool:
    return conn.pgconn.transaction_status in {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}


def roll_back(conn: Connection, frame: Frame) -> None:
    """Leave no transaction open behind an interruption; what cannot be rolled back is closed."""
    if is_lost(conn) or conn.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        recover(conn, frame)
    except psycopg.Error:
        conn.close()


def hang_up(conn: Connection) -> None:
    """End the wait of the thread that uses the connection: its socket is shut down, and what it waits for fails."""
    with suppress(OSError, psycopg.Error), socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def own_manners(conn: Connection) -> Iterator[None]:
    """Borrow a connection in autocommit mode and without prepared statements, and give it back as it was."""
    autocommit, prepare_threshold = conn.autocommit, conn.prepare_threshold
    conn.autocommit, conn.prepare_threshold = True, None
    try:
        yield
    finally:
        if not is_lost(conn) and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.close()  # a signal between sending and waiting leaves an answer in it that nobody will read
        if not is_lost(conn):
            conn.autocommit, conn.prepare_threshold = autocommit, prepare_threshold
