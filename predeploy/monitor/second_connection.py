"""A second connection that queries the state of the first; opened on demand, kept open, with short timeouts."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from predeploy.connection.query_message import ask
from predeploy.errors import PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.connection.connect import Connection, ConnectionSource

_LOGIN_S = 3.0
_ANSWER_S = 2.5
_NO_ANSWER = {"timeout", "unreachable"}  # every other reason means that the server or its host responded
# SET LOCAL, because the next client of a pooler or the next user of a pool must not inherit the timeouts.
_TIMEOUTS = "SET LOCAL statement_timeout='2s';SET LOCAL lock_timeout='1s';"


class SecondConnection:
    """Runs one query at a time; a query takes at most 8 s, including the login."""

    def __init__(self, db: ConnectionSource) -> None:
        self._db = db
        self._lent = ExitStack()
        self._conn: Connection | None = None

    def query(self, make_sql: Callable[[Connection], str]) -> bytes | None:
        """Run the query that `make_sql` returns for the connection, and return the first value of its result.

        Return None if there is no result, for example because no connection is free, a privilege is missing, or a lock
        blocks the query. Raise TimeoutError if the server does not even respond to a login.
        """
        if self._conn is not None:
            with suppress(psycopg.Error, TimeoutError):
                return ask(self._conn, _TIMEOUTS + make_sql(self._conn), _ANSWER_S)
            self.close()  # the session was terminated, or the connection is dead; a new login shows which
        try:
            self._conn = self._lent.enter_context(self._db.connection(timeout=_LOGIN_S))
        except PostgresUnavailable as error:
            if error.reason in _NO_ANSWER:
                raise TimeoutError from None
            return None
        except (StorageError, psycopg.Error):
            return None
        with suppress(psycopg.Error, TimeoutError):
            return ask(self._conn, _TIMEOUTS + make_sql(self._conn), _ANSWER_S)
        self.close()
        return None

    def close(self) -> None:
        """Return the connection to its source, and close it first if a result is still outstanding."""
        if self._conn is not None and self._conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self._conn.close()
        self._conn = None
        with suppress(StorageError, psycopg.Error):
            self._lent.close()
