"""Send a message made of parts to the server, and match each result to its part.

All statements are sent in one simple-query message. The server returns one result per statement, in order, and skips
the rest of the message after the first error. The number of results shows which statement is running.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from enum import Enum

    from psycopg.pq.abc import PGresult

    from predeploy.connection.connect import Connection

_CANCEL_S = 5.0
_CANCEL_AGAIN_S, _MAX_CANCELS = 0.2, 10
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


class Part(NamedTuple):
    """SQL, the number of its statements, and the zero-based index of its migration in the message.

    The results of a `quiet` part are counted but not yielded.
    """

    kind: Enum | None
    sql: str
    statements: int
    migration: int = 0
    quiet: bool = False


class Message:
    """Parts that are sent together, in order.

    `part` and `number` (zero-based) identify the statement that the next result belongs to. `started` is False until
    the first result, because the server may still fail to parse the message.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)
        self.sql = "".join(part.sql for part in self.parts)
        self.part = self.parts[0]
        self.number = 0
        self.started = False

    def offset_of(self, kind: Enum, migration: int) -> int:
        """Return the offset of a part in the message, in characters; raise LookupError if there is no such part."""
        offset = 0
        for part in self.parts:
            if part.kind == kind and part.migration == migration:
                return offset
            offset += len(part.sql)
        raise LookupError(kind)

    def send(
        self, conn: Connection, meanwhile: Callable[[], None] = lambda: None
    ) -> Generator[tuple[Part, PGresult], None, None]:
        """Send the message and yield each result as it arrives; `meanwhile` is called once, while the server works.

        Raise the server's error when a statement fails. If `meanwhile` or the caller's loop raises an exception, cancel
        the running statement before the exception propagates.
        """
        pgconn = conn.pgconn
        places = ((part, number) for part in self.parts for number in range(part.statements))
        self.part, self.number = next(places, (self.parts[0], 0))
        self.started = False
        with conn.lock:
            try:
                pgconn.send_query(self.sql.encode())
                conn.wait(generators.send(pgconn))
                _call(meanwhile, conn)
                while result := conn.wait(generators.fetch(pgconn)) if pgconn.is_busy() else pgconn.get_result():
                    if result.status == pq.ExecStatus.FATAL_ERROR:
                        raise error_from_result(result)
                    if (
                        result.status in _COPYING
                    ):  # validation should have rejected COPY; the connection is unusable from here on
                        conn.close()
                        raise psycopg.OperationalError("COPY to or from the client is not supported in a migration")
                    self.started = True
                    if not self.part.quiet:
                        yield self.part, result
                    self.part, self.number = next(places, (self.part, self.number))
            except GeneratorExit:
                _cancel(conn)
                raise
            finally:
                with suppress(psycopg.Error):  # an error would replace a signal's exception, and the run would continue
                    _drain(conn)


def run(conn: Connection, sql: str) -> list[PGresult]:
    """Send SQL as one message and return the results of its statements."""
    return [result for _, result in Message([Part(None, sql, 1)]).send(conn)]


def ask(conn: Connection, message: str, timeout: float) -> bytes | None:
    """Send SQL as one message and return the first value of the last result, or None if the value is NULL.

    Raise TimeoutError if the server does not respond within `timeout` seconds, and a psycopg error if the connection is
    lost. Return None on any other server error.
    """
    pgconn, deadline = conn.pgconn, time.monotonic() + timeout
    pgconn.send_query(message.encode())
    pgconn.flush()
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    value = None
    while True:
        while pgconn.is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            break
        value = result.get_value(0, 0) if result.status == pq.ExecStatus.TUPLES_OK else None
    if pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the connection was lost")
    return value


def _call(meanwhile: Callable[[], None], conn: Connection) -> None:
    try:
        meanwhile()
    except BaseException:
        _cancel(conn)
        raise


def _cancel(conn: Connection) -> None:
    """Cancel the running statement; repeat until the server responds, because it ignores a cancel that is too early."""
    poll = select.poll()
    for _ in range(_MAX_CANCELS):
        if conn.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        with suppress(psycopg.Error):  # if the connection is lost, the caller still raises the original exception
            conn.cancel_safe(timeout=_CANCEL_S)
            poll.register(conn.fileno(), select.POLLIN)
            if poll.poll(_CANCEL_AGAIN_S * 1000):
                return


def _drain(conn: Connection) -> None:
    while not conn.closed and conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        if conn.wait(generators.fetch(conn.pgconn)) is None:
            break
