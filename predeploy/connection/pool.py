"""A connection pool for long-lived programs; a migration run uses a single connection without a pool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from predeploy.connection.connect import VerboseConnection
from predeploy.connection.dsn import parse_dsn
from predeploy.connection.login_errors import classify_login_error
from predeploy.connection.parameters import login_conninfo
from predeploy.errors import PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

_FIRST_LOOK_S, _MAX_LOOK_S = 0.2, 2.0  # how often a waiting request checks whether logins are failing


def create_db(dsn: str | None, *, max_size: int = 10) -> ConnectionPool[Any]:
    """Return a pool of at most `max_size` connections that connects on first use.

    Idle connections are closed after 20 s. A connection attempt times out after 10 s, unless the URL sets
    `connect_timeout`. Raise `StorageError` with code `STORAGE_DB_URL_MISSING` if the connection string is empty, or
    with code `STORAGE_DB_URL_INVALID` if it is malformed. A request for a connection raises `PostgresRefused`
    immediately if waiting cannot help, or `PostgresUnavailable` if logins keep failing until the timeout.
    """
    parsed = parse_dsn(dsn)
    conninfo = login_conninfo(parsed).decode()
    import psycopg_pool

    class PooledConnection(VerboseConnection):
        """Remembers why the last login failed, and keeps libpq's text, which may quote the URL, out of the log."""

        failure: StorageError | None = None
        works = False

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            try:
                conn = super().connect(conninfo, **kwargs)
            except (psycopg.Error, UnicodeError) as error:
                cls.failure, cls.works = classify_login_error(error, parsed), False
                raise psycopg.OperationalError(str(cls.failure)) from None
            cls.failure, cls.works = None, True
            return conn

    class LazyPool(psycopg_pool.ConnectionPool[Any]):
        """Starts its workers on the first request; a request that fails raises the reason why logins fail."""

        def getconn(self, timeout: float | None = None) -> Any:
            if self.closed:
                self.open()  # raises if the pool was closed permanently
            deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
            look_s = _FIRST_LOOK_S
            PooledConnection.failure = None  # ignore failures before this request
            while True:
                left = deadline - time.monotonic()
                # While all connections are in use, do not check: a repeated request would go to the end of the queue.
                looks = not PooledConnection.works or self.get_stats()["pool_size"] < self.max_size
                try:
                    return super().getconn(min(look_s, left) if looks else left)
                except psycopg_pool.PoolTimeout:
                    failure, over = PooledConnection.failure, time.monotonic() >= deadline
                    if failure and (over or not isinstance(failure, PostgresUnavailable)):
                        raise failure from None
                    if over:
                        raise
                look_s = min(2 * look_s, _MAX_LOOK_S)

    return LazyPool(
        conninfo,
        connection_class=PooledConnection,
        min_size=0,
        max_size=max_size,
        max_idle=20.0,
        reconnect_timeout=0.0,  # disables the pool's own retries with backoff; waiting requests retry instead
        open=False,
    )
