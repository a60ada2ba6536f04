"""Log in once, or retry until the server accepts connections."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import psycopg
from psycopg import pq
from psycopg.waiting import Wait

from predeploy.connection import libpq
from predeploy.connection.background import call_with_timeout
from predeploy.connection.login_errors import classify_login_error
from predeploy.connection.parameters import log_connected, login_conninfo
from predeploy.errors import PostgresUnavailable, StorageError
from predeploy.log.throttle import LogThrottle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from psycopg.abc import PQGenConn

    from predeploy.connection.dsn import Dsn

log = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]
ReadOnlyOk = Callable[[Connection], bool]

INITIAL_DELAY_S = 0.1
MAX_DELAY_S = 2.0
LOG_EVERY_S = 10.0
_WAITS = {pq.PollingStatus.READING: Wait.R, pq.PollingStatus.WRITING: Wait.W}
MIN_LOGIN_S = 0.75  # applies to every attempt, so the last one may exceed the timeout by this much
CONCLUSIVE_LOGIN_S = 2.0  # below this timeout, a timed-out attempt reports the previous error instead


def always(_conn: Connection) -> bool:
    """Accept a read-only server."""
    return True


def never(_conn: Connection) -> bool:
    """Wait until the server accepts writes."""
    return False


class ConnectionSource(Protocol):
    """A source of connections: a pool or a `Server`."""

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Connection]:
        """Lend a connection within `timeout` seconds, which defaults to the source's own timeout."""
        ...


class Server:
    """Connects to a database without a pool, for a process that needs one connection at a time.

    While the server is read-only, wait unless `read_only_ok` returns True. If `wait_started`, a time on the monotonic
    clock, is given, the first wait's timeout starts at that time.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        wait_timeout: float = 60.0,
        read_only_ok: ReadOnlyOk = never,
        wait_started: float | None = None,
    ) -> None:
        self.dsn = dsn
        self.wait_timeout = wait_timeout
        self.read_only_ok = read_only_ok
        self._wait_started = wait_started

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Wait for the server and yield a connection; with a `timeout`, try once within that many seconds."""
        if timeout is None:
            started, self._wait_started = self._wait_started, None
            timeout_s = self.wait_timeout
            conn = wait_for_postgres(self.dsn, timeout=timeout_s, read_only_ok=self.read_only_ok, started=started)
        else:
            conn = connect(self.dsn, timeout=timeout)
        try:
            yield conn
        finally:
            conn.close()


def wait_for_postgres(
    dsn: Dsn, *, timeout: float, read_only_ok: ReadOnlyOk = never, started: float | None = None
) -> Connection:
    """Return a connection; retry until `timeout` seconds have passed since `started` (default: now).

    Retryable failures (refused, DNS, starting up, too many clients, a read-only server unless `read_only_ok` returns
    True) are retried until the timeout, then raise `PostgresUnavailable`, up to 0.75 s late if the last attempt gets no
    response. Permanent failures (credentials, database, TLS) raise `PostgresRefused` immediately.
    """
    started = time.monotonic() if started is None else started
    deadline = started + timeout
    throttle = LogThrottle(LOG_EVERY_S)
    attempts = 0
    before: PostgresUnavailable | None = None

    def attempt() -> Connection:
        nonlocal attempts, before
        attempts += 1
        given = max(deadline - time.monotonic(), MIN_LOGIN_S)
        try:
            return connect(dsn, timeout=given, read_only_ok=read_only_ok)
        except PostgresUnavailable as error:
            if before and error.reason == "timeout" and given < CONCLUSIVE_LOGIN_S:
                raise before from None
            before = error
            if throttle.should_log(error.reason):
                wait_s = round(time.monotonic() - started, 1)
                left_s = round(max(deadline - time.monotonic(), 0), 1)
                waits = {"wait_s": wait_s, "left_s": left_s, "timeout_s": timeout}
                fields = {"attempt": attempts, **waits, "reason": error.reason}
                log.warning(
                    "Waiting for Postgres at %s:%s: %s (attempt %s, %.0f s left)",
                    dsn.host,
                    dsn.port,
                    error,
                    attempts,
                    left_s,
                    extra={"event": "postgres.waiting", **fields},
                )
            raise

    conn = _until(deadline, attempt, started)
    version = conn.info.parameter_status("server_version")
    log_connected(dsn, attempt=attempts, wait_s=time.monotonic() - started, server_version=version)
    return conn


def _until(deadline: float, attempt: Callable[[], Connection], started: float) -> Connection:
    try:
        return attempt()
    except PostgresUnavailable as error:
        if time.monotonic() + INITIAL_DELAY_S >= deadline:
            raise _gave_up(error, time.monotonic() - started) from None
    time.sleep(INITIAL_DELAY_S)
    import tenacity  # only after a failed attempt, because the import takes 15 ms

    pause = tenacity.wait_random_exponential(multiplier=2 * INITIAL_DELAY_S, max=MAX_DELAY_S)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PostgresUnavailable),
        # Not stop_before_delay, which would skip the last attempt: the server may come up during the last pause.
        wait=lambda state: min(pause(state), max(deadline - time.monotonic(), 0)),
        stop=lambda _state: time.monotonic() >= deadline,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except PostgresUnavailable as error:
        raise _gave_up(error, time.monotonic() - started) from None


def _gave_up(error: PostgresUnavailable, waited: float) -> PostgresUnavailable:
    return PostgresUnavailable(f"Could not connect to Postgres within {waited:.0f} s: {error}", error.reason)


def _require_writable(conn: Connection, read_only_ok: ReadOnlyOk) -> None:
    try:
        if not _is_read_only(conn) or read_only_ok(conn):
            return
        problem: StorageError = PostgresUnavailable(
            "the server is read-only (a standby, in recovery, or default_transaction_read_only is on)", "read_only"
        )
    except psycopg.Error as error:
        problem = classify_login_error(error)
    conn.close()
    raise problem


def _is_read_only(conn: Connection) -> bool:
    """Return whether the server is read-only; query it if it does not report this at login (Postgres 13, poolers)."""
    reported = [conn.info.parameter_status(name) for name in ("in_hot_standby", "default_transaction_read_only")]
    if None not in reported:
        return "on" in reported
    row = conn.execute("SHOW transaction_read_only").fetchone()
    return bool(row and row[0] == "on")


def connect(dsn: Dsn, *, timeout: float, read_only_ok: ReadOnlyOk = always) -> Connection:
    """Log in once, in autocommit mode, within `timeout` seconds, including host name resolution.

    Raise `PostgresUnavailable` (also for a read-only server unless `read_only_ok` returns True), `PostgresRefused` or
    `DatabaseUrlInvalid`.
    The message never includes libpq's text, which may quote the connection string.
    """

    def log_in() -> Connection:
        try:
            conn = VerboseConnection.connect(login_conninfo(dsn).decode(), autocommit=True, prepare_threshold=None)
        except (psycopg.Error, UnicodeError) as error:
            raise classify_login_error(error, dsn) from None
        if read_only_ok is not always:
            _require_writable(conn, read_only_ok)
        return conn

    try:
        return call_with_timeout(timeout, log_in)
    except TimeoutError:
        raise PostgresUnavailable(f"no response within {timeout:.1f} s", "timeout") from None


class VerboseConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose login error messages include the SQLSTATE, which `classify_login_error` parses."""

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """Log in like psycopg, but with verbose error messages, for which psycopg has no option."""
        library = libpq.load()
        pgconn: Any = pq.PGconn.connect_start(conninfo.encode())
        try:
            if library:
                library.set_verbosity(pgconn.pgconn_ptr, "verbose")
            state = pq.PollingStatus.FAILED
            while pgconn.status != pq.ConnStatus.BAD and (state := pgconn.connect_poll()) in _WAITS:
                while not (yield pgconn.socket, _WAITS[state]):
                    pass
            if state != pq.PollingStatus.OK:
                raise psycopg.OperationalError(pgconn.get_error_message("utf-8"))  # noqa: TRY301  as psycopg does
            if library:
                library.set_verbosity(pgconn.pgconn_ptr, "default")
            pgconn.nonblocking = 1
            return cls(pgconn)
        except BaseException:
            pgconn.finish()
            raise
