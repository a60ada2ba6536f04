"""Send a message made of parts to the server, and match each result to its part.

All statements are sent in one simple-query message. The server returns one result per statement, in order, and skips
the rest of the message after the first error. The number of results shows which statement is running.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psycopg
from psycopg import generators, pq, waiting
from psycopg.errors import error_from_result

from predeploy.signals import seconds_left

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from enum import Enum

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

    from predeploy.connection.connect import Connection

_CANCEL_S = 2.0  # for an error in the program
_CANCEL_AFTER_SIGNAL_S = 0.5  # then the session is terminated: see predeploy/monitor/end_session.py
_CANCEL_AGAIN_S = 0.1
_WAIT_INTERVAL_S = 0.1
_CHUNK_ROWS = 8  # that libpq buffers: each row may be large
_SOME_ROWS = (pq.ExecStatus.TUPLES_CHUNK, pq.ExecStatus.SINGLE_TUPLE)  # before the result of the statement itself
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)

T = TypeVar("T")


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
        self, conn: Connection, meanwhile: Callable[[], None] = lambda: None, *, keep_rows: bool = False
    ) -> Generator[tuple[Part, PGresult], None, None]:
        """Send the message and yield each result as it arrives; `meanwhile` is called once, while the server works.

        Unless `keep_rows`, drop the rows as they arrive: a migration may return more than fit into memory.

        Raise the server's error when a statement fails. If `meanwhile` or the caller's loop raises an exception, cancel
        the running statement before the exception propagates. After a signal, the server may still be running the
        message: see `_stop`.
        """
        pgconn = conn.pgconn
        places = ((part, number) for part in self.parts for number in range(part.statements))
        self.part, self.number = next(places, (self.parts[0], 0))
        self.started = False
        with conn.lock:
            try:
                pgconn.send_query(self.sql.encode())
                if not keep_rows:
                    _receive_in_chunks(pgconn)
                _wait(conn, generators.send(pgconn))
                meanwhile()
                while result := _wait(conn, generators.fetch(pgconn)) if pgconn.is_busy() else pgconn.get_result():
                    _check(conn, result)
                    if result.status in _SOME_ROWS:
                        continue
                    self.started = True
                    if not self.part.quiet:
                        yield self.part, result
                    self.part, self.number = next(places, (self.part, self.number))
            except BaseException as error:
                with suppress(psycopg.Error):  # it would replace a signal's exception, and the run would continue
                    self._stop(conn, places, error)
                raise

    def _stop(self, conn: Connection, places: Iterator[tuple[Part, int]], error: BaseException) -> None:
        """Stop the message after an error; `places` are the statements after the running one.

        After a signal, the caller must terminate the session if it is still running. It is always left running if the
        message has more migrations: a cancel ends only one statement. If that statement were a COMMIT that waits for a
        synchronous standby, the server would continue with the next migration.
        """
        if isinstance(error, psycopg.Error):
            _drain(conn)  # the server skips the rest of the message
        elif conn.pgconn.flush():
            conn.close()  # the server does not run an incomplete message
        elif not isinstance(error, KeyboardInterrupt) and seconds_left() is None:
            cancel(conn, _CANCEL_S)
            _drain(conn)
        elif max((part.migration for part, _ in places), default=0) <= self.part.migration:
            cancel(conn, _CANCEL_AFTER_SIGNAL_S)  # replaced by tests/faults/planted.py


def run(conn: Connection, sql: str, *, keep_rows: bool = True) -> list[PGresult]:
    """Send SQL as one message and return the results of its statements, without rows unless `keep_rows`."""
    return [result for _, result in Message([Part(None, sql, 1)]).send(conn, keep_rows=keep_rows)]


def _receive_in_chunks(pgconn: PGconn) -> None:
    try:
        pgconn.set_chunked_rows_mode(_CHUNK_ROWS)
    except psycopg.NotSupportedError:  # libpq before version 17
        pgconn.set_single_row_mode()


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


def cancel(conn: Connection, seconds: float) -> bool:
    """Send cancel requests until the session is idle, for at most `seconds`; return whether it is idle.

    One request is not always enough: the server drops a request that arrives before the message, a migration may catch
    the cancel, and a cancel ends only one statement of a message.
    """
    deadline = time.monotonic() + seconds
    while is_running(conn) and (left_s := deadline - time.monotonic()) > 0:
        with suppress(psycopg.Error):
            conn.cancel_safe(timeout=left_s)
        _read_until(conn, min(time.monotonic() + _CANCEL_AGAIN_S, deadline))
    return not is_running(conn)


def is_running(conn: Connection) -> bool:
    """Return whether the connection is open and the server has not finished answering the last message."""
    return not conn.closed and conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE


def _check(conn: Connection, result: PGresult) -> None:
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise error_from_result(result)
    if result.status in _COPYING:  # validation should have rejected COPY; the connection is now unusable
        conn.close()
        raise psycopg.OperationalError("COPY to or from the client is not supported in a migration")


def _wait(conn: Connection, generator: PQGen[T]) -> T:
    """Wait like `conn.wait`, but leave cancellation to `Message`, which knows what was sent."""
    return waiting.wait(generator, conn.pgconn.socket, interval=_WAIT_INTERVAL_S)


def _read_until(conn: Connection, deadline: float) -> None:
    """Read and discard results until the session is idle or the deadline has passed."""
    pgconn, poll = conn.pgconn, select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while is_running(conn):
        while pgconn.is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                return
            pgconn.consume_input()
        pgconn.get_result()


def _drain(conn: Connection) -> None:
    while is_running(conn):
        if conn.wait(generators.fetch(conn.pgconn)) is None:
            break
