"""Reaching the server: connect once, or wait until it accepts us."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

from predeploy.connection.background import Apart
from predeploy.connection.dsn import host_and_port
from predeploy.connection.login_errors import explain
from predeploy.connection.parameters import parameters, tell_ready
from predeploy.errors import PostgresUnavailable, StorageError
from predeploy.log.throttle import LogThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
LOG_EVERY_S = 10.0
SHORTEST_LOGIN_S = 0.75  # what an attempt is given even at the end of the wait, which may last so much longer
TELLING_LOGIN_S = 2.0  # in less, no answer tells nothing that the attempt before did not tell better


class ConnectionSource(Protocol):
    """Whatever lends connections: a pool, or `Server`."""

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Connection]:
        """Lend a connection, had within `timeout` seconds; the source's own default when None."""
        ...


class Server:
    """One database, reached by one connection at a time: what a one-shot process needs instead of a pool.

    The first wait began at `since`, by the monotonic clock, if it has begun. Where there are too many clients
    `make_room` ends another connection of ours, and tells whether there was one.
    """

    def __init__(
        self,
        dsn: str,
        *,
        wait_timeout: float = 60.0,
        writable: bool = True,
        since: float | None = None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.dsn = dsn
        self.wait_timeout = wait_timeout
        self.writable = writable
        self._since = since
        self._make_room = make_room
        self._begun: Login | None = None

    def begin(self) -> None:
        """Begin the first login beside what else there is to do."""
        self._begun = Login(self.dsn, writable=self.writable)

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Wait for the server and lend a connection; with a `timeout`, try once within that many seconds."""
        if timeout is None:
            since, self._since = self._since, None
            begun, self._begun = self._begun, None
            conn = wait_for_postgres(
                self.dsn,
                timeout=self.wait_timeout,
                writable=self.writable,
                since=since,
                begun=begun,
                make_room=self._make_room,
            )
        else:
            conn = connect(self.dsn, timeout=timeout)
        try:
            yield conn
        finally:
            conn.close()


def wait_for_postgres(
    dsn: str,
    *,
    timeout: float,
    writable: bool = True,
    since: float | None = None,
    begun: Login | None = None,
    make_room: Callable[[], bool] = lambda: False,
) -> Connection:
    """Return a connection, trying again until `timeout` seconds of wall clock have passed, from now or `since`.

    What may pass (refused, DNS, starting up, too many clients, read-only while `writable` is asked for) is waited
    for: `PostgresUnavailable` at the end, which is 0.75 s late if the last attempt gets no answer. What will not
    (credentials, database, TLS) raises `PostgresRefused` at once. The first login may have `begun`; where there are
    too many clients `make_room` is to end another connection of ours, and to tell whether there was one.
    """
    host, port = host_and_port(dsn)
    started = time.monotonic() if since is None else since
    deadline = started + timeout
    throttle = LogThrottle(LOG_EVERY_S)
    attempts = 0
    before: PostgresUnavailable | None = None

    def log_in(seconds: float) -> Connection:
        nonlocal begun
        login, begun = begun or Login(dsn, writable=writable), None
        try:
            return login.wait(seconds)
        except PostgresUnavailable as error:
            if error.reason != "too_many_clients" or not make_room():
                raise
        time.sleep(FIRST_PAUSE_S)  # what the server may take to notice
        return connect(dsn, timeout=max(deadline - time.monotonic(), SHORTEST_LOGIN_S), writable=writable)

    def attempt() -> Connection:
        nonlocal attempts, before
        attempts += 1
        given = max(deadline - time.monotonic(), SHORTEST_LOGIN_S)
        try:
            return log_in(given)
        except PostgresUnavailable as error:
            if before and error.reason == "timeout" and given < TELLING_LOGIN_S:
                raise before from None
            before = error
            if throttle.should_log(error.reason):
                wait_s = round(time.monotonic() - started, 1)
                left_s = round(max(deadline - time.monotonic(), 0), 1)
                waits = {"wait_s": wait_s, "left_s": left_s, "timeout_s": timeout}
                fields = {"attempt": attempts, **waits, "reason": error.reason}
                log.warning(
                    "Waiting for Postgres at %s:%s: %s",
                    host,
                    port,
                    error,
                    extra={"event": "postgres.waiting", **fields},
                )
            raise

    conn = _until(deadline, attempt, started)
    version = conn.info.parameter_status("server_version")
    tell_ready(dsn, attempt=attempts, wait_s=time.monotonic() - started, server_version=version)
    return conn


def _until(deadline: float, attempt: Callable[[], Connection], started: float) -> Connection:
    try:
        return attempt()
    except PostgresUnavailable as error:
        if time.monotonic() + FIRST_PAUSE_S >= deadline:
            raise _gave_up(error, time.monotonic() - started) from None
    time.sleep(FIRST_PAUSE_S)
    import tenacity  # after a failed attempt only: 15 ms that a healthy start does not pay

    pause = tenacity.wait_random_exponential(multiplier=2 * FIRST_PAUSE_S, max=LONGEST_PAUSE_S)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PostgresUnavailable),
        # Not stop_before_delay: it ends the wait a pause too early, with a server that may be up by then.
        wait=lambda state: min(pause(state), max(deadline - time.monotonic(), 0)),
        stop=lambda _state: time.monotonic() >= deadline,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except PostgresUnavailable as error:
        raise _gave_up(error, time.monotonic() - started) from None


def _gave_up(error: PostgresUnavailable, waited: float) -> PostgresUnavailable:
    return PostgresUnavailable(f"Postgres did not accept us within {waited:.0f} s: {error}", error.reason)


def _require_writable(conn: Connection) -> None:
    try:
        if not _is_read_only(conn):
            return
        problem: StorageError = PostgresUnavailable(
            "the server is read-only: a standby, in recovery, or set so", "read_only"
        )
    except psycopg.Error as error:
        problem = explain(error)
    conn.close()
    raise problem


def _is_read_only(conn: Connection) -> bool:
    """Tell from what the server reported at login; servers before 14 and most poolers have to be asked."""
    reported = [conn.info.parameter_status(name) for name in ("in_hot_standby", "default_transaction_read_only")]
    if None not in reported:
        return "on" in reported
    row = conn.execute("SHOW transaction_read_only").fetchone()
    return bool(row and row[0] == "on")


class Login:
    """One login in autocommit mode, name resolution included, begun at once in a thread of its own."""

    def __init__(self, dsn: str, *, writable: bool = False) -> None:
        self._dsn = dsn
        self._writable = writable
        self._apart = Apart(self._log_in)

    def _log_in(self) -> Connection:
        try:
            conn = psycopg.connect(self._dsn, autocommit=True, prepare_threshold=None, **parameters(self._dsn))
        except (psycopg.Error, UnicodeError) as error:
            raise explain(error) from None
        if self._writable:
            _require_writable(conn)
        return conn

    def wait(self, seconds: float) -> Connection:
        """Return the connection within so many seconds.

        Raise `PostgresUnavailable`, also for a read-only server while `writable` is asked for, `PostgresRefused` or
        `DatabaseUrlInvalid`, with a text of our own: libpq's may quote the connection string.
        """
        try:
            return self._apart.wait(seconds)
        except TimeoutError:
            raise PostgresUnavailable(f"no answer within {seconds:.1f} s", "timeout") from None


def connect(dsn: str, *, timeout: float, writable: bool = False) -> Connection:
    """Log in once, within `timeout` seconds; raise what `Login.wait` raises."""
    return Login(dsn, writable=writable).wait(timeout)
