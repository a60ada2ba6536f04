"""Configure a server session, reset it after a migration, and detect whether the connection is lost."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq

from predeploy.connection.parameters import APPLICATION, application_name
from predeploy.connection.query_message import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from predeploy.connection.connect import Connection

log = logging.getLogger(__name__)

# Resets everything that a migration can leave behind, except the advisory lock, which DISCARD ALL would release. The
# first statement also restores the role, including one set by ALTER ROLE ... SET role.
_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
)
# With this setting, Postgres 14 and later detect a killed client within a second. Keep a value configured by the user.
_CHECK_INTERVAL = (
    "SELECT set_config('client_connection_check_interval','1s',{local})"
    " WHERE current_setting('client_connection_check_interval',true)='0'"
)
# With these settings, the server also detects a client that has lost its network. With the defaults, detection takes
# two hours, during which the server keeps the lock. The timeout is in milliseconds, the keepalive times in seconds.
_SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
_STRINGS = "SET standard_conforming_strings=on"
# A commit that the server confirms before it is on disk can be lost in a crash, after it has been logged as applied.
_SYNCHRONOUS = (
    "SELECT pg_catalog.set_config('synchronous_commit','on',{local})"
    " WHERE pg_catalog.current_setting('synchronous_commit')='off'"
)


class Sql(NamedTuple):
    """SQL text and the number of statements in it."""

    sql: str = ""
    statements: int = 0


def join(*statements: str) -> Sql:
    """Join statements into one text, each followed by a semicolon."""
    return Sql("".join(f"{statement};" for statement in statements), len(statements))


COMMIT = join("COMMIT")
SYNCHRONOUS = join(_SYNCHRONOUS.format(local="true"))


def show_migration(name: str, *, local: bool) -> Sql:
    """Return the statement that adds a migration's name to application_name, for one transaction only if `local`.

    Other sessions can then identify the migration in pg_stat_activity, whose query column is cut off in a long message.
    """
    quoted = application_name(name).replace("'", "''")  # a backslash is an ordinary character: see _STRINGS
    return join(f"SET {'LOCAL ' if local else ''}application_name='{quoted}'")


def has_default_name(conn: Connection) -> bool:
    """Return whether application_name is this program's, not one from the connection string or PGAPPNAME."""
    return (conn.info.parameter_status("application_name") or "").startswith(f"{APPLICATION} ")


def begin_with(begin: Sql, mode: str) -> Sql:
    """Return the `begin` of a profile with a transaction mode in its first statement, if it has statements."""
    rest = begin.sql.partition(";")[2]
    return Sql(f"BEGIN {mode};{rest}", begin.statements) if mode and begin.statements else begin


class SessionProfile(NamedTuple):
    """The statements around a migration: `begin`, its claim, the migration, `commit`, `reset`.

    `setup` runs once, before the first migration. `pooled` is True for a transaction-mode pooler, which may run each
    transaction in a different session: `begin` then includes the settings, and `reset` leaves nothing behind for other
    clients. A rehearsal uses a different `commit`. If `shows_migration`, application_name contains the name of the
    running migration. If `renewable`, a new session gets the settings that a migration has stored for new sessions.
    `mark` is a random comment in `begin`, which identifies the session on the server behind such a pooler.
    """

    setup: Sql = Sql()
    begin: Sql = Sql()
    commit: Sql = COMMIT
    reset: Sql = Sql()
    pooled: bool = False
    shows_migration: bool = False
    renewable: bool = False
    mark: str = ""


def direct_profile(
    *,
    lock_timeout: float,
    statement_timeout: float,
    options: str = "",
    migration_settings: Sequence[tuple[str, str]] = (),
) -> SessionProfile:
    """Return the profile of a dedicated session. A timeout of 0 s keeps the role's or the database's setting.

    Keepalive settings in the connection string's `options` are not overridden.
    """
    settings = [f"{name}={value}" for name, value in _SERVER_KEEPALIVES.items() if name not in options]
    settings += ["default_transaction_isolation='read committed'", *_timeouts(lock_timeout, statement_timeout)]
    conditional = (_CHECK_INTERVAL.format(local="false"), _SYNCHRONOUS.format(local="false"))
    setup = (_STRINGS, *conditional, *(f"SET {setting}" for setting in settings))
    begin = join("BEGIN", *_local(migration_settings))
    return SessionProfile(join(*setup), begin=begin, reset=join(*_RESET, "DEALLOCATE ALL", *setup))


def pooled_profile(
    *, lock_timeout: float, statement_timeout: float, migration_settings: Sequence[tuple[str, str]] = ()
) -> SessionProfile:
    """Return the profile of a session that a pooler shares among its clients.

    A pooler only tracks settings that Postgres reports to clients; both settings in `setup` are among them. Prepared
    statements are not deallocated, because they may belong to other clients.
    """
    mark = f"/* {os.urandom(8).hex()} */"  # near the start: pg_stat_activity shows only the first 1,024 bytes
    local = (f"SET LOCAL {setting}" for setting in _timeouts(lock_timeout, statement_timeout))
    begin = (
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        mark + _CHECK_INTERVAL.format(local="true"),
        _SYNCHRONOUS.format(local="true"),
        *local,
        *_local(migration_settings),
    )
    setup = ("SET client_encoding='UTF8'", _STRINGS)
    reset = (*_RESET, "SELECT pg_catalog.pg_advisory_unlock_all()", *setup)
    return SessionProfile(join(*setup), join(*begin), reset=join(*reset), pooled=True, mark=mark)


def _local(migration_settings: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a statement for each setting that sets `predeploy.<name>` until the transaction ends."""
    for name, value in migration_settings:
        quoted = value.replace("'", "''")  # a backslash is an ordinary character: see _STRINGS
        yield f"SET LOCAL predeploy.\"{name}\"='{quoted}'"


def _timeouts(lock_timeout: float, statement_timeout: float) -> list[str]:
    timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return [f"{name}={max(round(s * 1000), 1)}" for name, s in timeouts.items() if s > 0]


def is_lost(conn: Connection) -> bool:
    """Return whether the connection is lost; ignore SQLSTATEs, because a migration can raise any of them itself."""
    return conn.closed or conn.broken or conn.pgconn.status == pq.ConnStatus.BAD


def recover(conn: Connection, profile: SessionProfile) -> None:
    """Roll back a failed migration and reset the session, in one message so that a pooler uses one session for both."""
    if is_in_transaction(conn) or not profile.pooled:
        _clean(conn, profile)


def reset_again(conn: Connection, profile: SessionProfile) -> None:
    """Reset the session again after a failed reset; if that fails too, close the connection and raise the error."""
    try:
        _clean(conn, profile)
    except psycopg.Error:
        conn.close()
        raise


def _clean(conn: Connection, profile: SessionProfile) -> None:
    run(conn, ("ROLLBACK;" if is_in_transaction(conn) else "") + profile.reset.sql)


def is_in_transaction(conn: Connection) -> bool:
    """Return whether a transaction is open, even if a statement in it has failed."""
    return conn.pgconn.transaction_status in {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}


def roll_back(conn: Connection, profile: SessionProfile) -> None:
    """Roll back after an interruption; close the connection if the rollback fails."""
    if is_lost(conn) or conn.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        recover(conn, profile)
    except psycopg.Error:
        conn.close()


def shut_down(conn: Connection) -> None:
    """Shut down the socket, so that a call waiting for a response in another thread fails."""
    with suppress(OSError, psycopg.Error), socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def autocommit(conn: Connection) -> Iterator[None]:
    """Use a connection in autocommit mode without prepared statements, then restore its settings."""
    before = conn.autocommit, conn.prepare_threshold
    conn.autocommit, conn.prepare_threshold = True, None
    try:
        yield
    finally:
        if not is_lost(conn) and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.close()  # a signal that arrives between sending and waiting leaves an unread response
        if not is_lost(conn):
            conn.autocommit, conn.prepare_threshold = before
