"""A session on the server: its settings, the reset after a migration, and whether it is lost."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq

from predeploy.connection.query_message import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.connection.connect import Connection

log = logging.getLogger(__name__)

# Resets everything that a migration can leave behind, except the advisory lock, which DISCARD ALL would release. The
# first statement also restores the role, including that of ALTER ROLE ... SET role.
_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
)
# A server since 14 notices within a second that a client was killed. A configured value is kept.
_CHECK_INTERVAL = (
    "SELECT set_config('client_connection_check_interval','1s',{local})"
    " WHERE current_setting('client_connection_check_interval',true)='0'"
)
# It also notices a client without a network; by default that takes two hours, and the server keeps the lock that long.
# In milliseconds or seconds, as Postgres counts them.
_SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
_STRINGS = "SET standard_conforming_strings=on"


class Sql(NamedTuple):
    """Statements as one text, and their number."""

    sql: str = ""
    statements: int = 0


def join(*statements: str) -> Sql:
    """Return statements as one text, each with its semicolon."""
    return Sql("".join(f"{statement};" for statement in statements), len(statements))


COMMIT = join("COMMIT")


class SessionProfile(NamedTuple):
    """The statements around a migration: `begin`, its claim, the migration, `commit`, `reset`.

    `setup` runs once, before the first. `pooled`: a transaction-mode pooler may give each transaction another session,
    so settings are part of `begin`, and `reset` leaves nothing behind for other clients. A rehearsal has another
    `commit`.
    """

    setup: Sql = Sql()
    begin: Sql = Sql()
    commit: Sql = COMMIT
    reset: Sql = Sql()
    pooled: bool = False


def direct_profile(*, lock_timeout: float, statement_timeout: float, options: str = "") -> SessionProfile:
    """Return the profile of a dedicated session; a timeout of 0 s keeps the setting of the role or the database.

    Keepalives that the connection string's `options` set are kept.
    """
    settings = [f"{name}={value}" for name, value in _SERVER_KEEPALIVES.items() if name not in options]
    settings += ["default_transaction_isolation='read committed'", *_timeouts(lock_timeout, statement_timeout)]
    setup = (_STRINGS, _CHECK_INTERVAL.format(local="false"), *(f"SET {setting}" for setting in settings))
    return SessionProfile(join(*setup), begin=join("BEGIN"), reset=join(*_RESET, "DEALLOCATE ALL", *setup))


def pooled_profile(*, lock_timeout: float, statement_timeout: float) -> SessionProfile:
    """Return the profile of a session that a pooler shares among its clients.

    The pooler keeps only those two settings for each client that Postgres reports. Prepared statements are not
    deallocated: they may belong to other clients.
    """
    local = (f"SET LOCAL {setting}" for setting in _timeouts(lock_timeout, statement_timeout))
    begin = ("BEGIN ISOLATION LEVEL READ COMMITTED", _CHECK_INTERVAL.format(local="true"), *local)
    setup = ("SET client_encoding='UTF8'", _STRINGS)
    reset = (*_RESET, "SELECT pg_catalog.pg_advisory_unlock_all()", *setup)
    return SessionProfile(join(*setup), join(*begin), reset=join(*reset), pooled=True)


def _timeouts(lock_timeout: float, statement_timeout: float) -> list[str]:
    timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return [f"{name}={max(round(s * 1000), 1)}" for name, s in timeouts.items() if s > 0]


def is_lost(conn: Connection) -> bool:
    """Return whether the connection is lost. A migration can raise any SQLSTATE on a healthy server."""
    return conn.closed or conn.broken or conn.pgconn.status == pq.ConnStatus.BAD


def recover(conn: Connection, profile: SessionProfile) -> None:
    """After a failed migration, end its transaction and reset the session, in one message because of poolers."""
    if _is_in_transaction(conn) or not profile.pooled:
        _clean(conn, profile)


def reset_again(conn: Connection, profile: SessionProfile) -> None:
    """After a committed migration whose reset failed, reset again, or close the connection."""
    try:
        _clean(conn, profile)
    except psycopg.Error:
        conn.close()
        raise


def _clean(conn: Connection, profile: SessionProfile) -> None:
    run(conn, ("ROLLBACK;" if _is_in_transaction(conn) else "") + profile.reset.sql)


def _is_in_transaction(conn: Connection) -> bool:
    return conn.pgconn.transaction_status in {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}


def roll_back(conn: Connection, profile: SessionProfile) -> None:
    """Roll back after an interruption; close a connection that cannot roll back."""
    if is_lost(conn) or conn.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        recover(conn, profile)
    except psycopg.Error:
        conn.close()


def shut_down(conn: Connection) -> None:
    """Shut the socket down, so that a call in another thread that waits for an answer fails."""
    with suppress(OSError, psycopg.Error), socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def autocommit(conn: Connection) -> Iterator[None]:
    """Use a connection in autocommit mode and without prepared statements, and leave it as it was."""
    before = conn.autocommit, conn.prepare_threshold
    conn.autocommit, conn.prepare_threshold = True, None
    try:
        yield
    finally:
        if not is_lost(conn) and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.close()  # a signal between sending and waiting leaves an unread answer in it
        if not is_lost(conn):
            conn.autocommit, conn.prepare_threshold = before
