"""A second connection for queries about the first: opened when needed, kept, and with short timeouts."""

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
_NO_ANSWER = {"timeout", "unreachable"}  # every other reason is a response of the server or its host
# Only for the transaction of this message: the next client of a pooler or borrower of a pool must not inherit them.
_TIMEOUTS = "SET LOCAL statement_timeout='2s';SET LOCAL lock_timeout='1s';"


class SecondConnection:
    """Runs one query at a time, in at most 8 s including a login."""

    def __init__(self, db: ConnectionSource) -> None:
        self._db = db
        self._lent = ExitStack()
        self._conn: Connection | None = None

    def query(self, make_sql: Callable[[Connection], str]) -> bytes | None:
        """Send the query that `make_sql` returns for the connection; return the first value of its answer.

        None if there is no value: no free connection, no privilege, a lock that blocks it. Raise TimeoutError if the
        server does not even answer a login.
        """
        if self._conn is not None:
            with suppress(psycopg.Error, TimeoutError):
                return ask(self._conn, _TIMEOUTS + make_sql(self._conn), _ANSWER_S)
            self.close()  # it was terminated or is dead: a new login shows which
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
        """Return the connection; close it if an answer is still outstanding."""
        if self._conn is not None and self._conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self._conn.close()
        self._conn = None
        with suppress(StorageError, psycopg.Error):
            self._lent.close()
