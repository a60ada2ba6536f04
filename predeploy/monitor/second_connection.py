"""A second connection to look from: made when it is needed, kept between looks, and never waited for in vain."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from predeploy.errors import PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.connection.connect import Connection, ConnectionSource

_LOGIN_S = 3.0
_ANSWER_S = 2.5
_NO_ANSWER = {"timeout", "unreachable"}  # all other reasons are somebody's answer
# Of the transaction that the message is: a pooler's next client, or a pool's next borrower, finds nothing of it.
_OWN_TIMEOUTS = "SET LOCAL statement_timeout='2s';SET LOCAL lock_timeout='1s';"


class Lookout:
    """Asks one question at a time; that takes at most 8 s, with the login that may be needed, or 5.5 s in vain."""

    def __init__(self, db: ConnectionSource) -> None:
        self._db = db
        self._lent = ExitStack()
        self._conn: Connection | None = None

    def ask(self, question: Callable[[Connection], str]) -> bytes | None:
        """Send a query, made for the connection, and return the first value of its answer.

        None where there is no answer to be had: no connection to spare, no privilege, a lock in the way. Raise
        TimeoutError where not even a login is answered.
        """
        if self._conn is not None:
            with suppress(psycopg.Error, TimeoutError):
                return _answer(self._conn, question(self._conn))
            self.close()  # it was ended, or its line is dead: a login will tell
        try:
            self._conn = self._lent.enter_context(self._db.connection(timeout=_LOGIN_S))
        except PostgresUnavailable as error:
            if error.reason in _NO_ANSWER:
                raise TimeoutError from None
            return None
        except (StorageError, psycopg.Error):
            return None
        with suppress(psycopg.Error, TimeoutError):
            return _answer(self._conn, question(self._conn))
        self.close()
        return None

    def close(self) -> None:
        """Give the connection back; one that still owes an answer is closed."""
        if self._conn is not None and self._conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self._conn.close()
        self._conn = None
        with suppress(StorageError, psycopg.Error):
            self._lent.close()


def _answer(conn: Connection, query: str) -> bytes | None:
    """Ask in one message; raise TimeoutError when the answer is late, a psycopg error when the connection is lost."""
    pgconn = conn.pgconn
    deadline = time.monotonic() + _ANSWER_S
    pgconn.send_query(f"{_OWN_TIMEOUTS}{query}".encode())
    pgconn.flush()
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    answer = None
    while True:
        while pgconn.is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            break
        if result.status == pq.ExecStatus.TUPLES_OK:
            answer = result.get_value(0, 0)
    if pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the second connection was lost")
    return answer
