"""A pool for long-lived programs; the one-shot run needs one connection and no threads."""

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

_FIRST_LOOK_S, _MAX_LOOK_S = 0.2, 2.0  # how often a waiting request checks why there is no connection yet


def create_db(dsn: str | None, *, max_size: int = 10) -> ConnectionPool[Any]:
    """Return a pool of at most `max_size` connections that connects on first use.

    An idle connection is closed after 20 s; a connection attempt times out after 10 s (`connect_timeout` in the URL
    takes precedence). Raise `StorageError` with code `STORAGE_DB_URL_MISSING` for an empty connection
    string and `STORAGE_DB_URL_INVALID` for a malformed one. A request for a connection raises `PostgresRefused`
    at once if waiting cannot help, and `PostgresUnavailable` if logins fail until the timeout.
    """
    conninfo = login_conninfo(parse_dsn(dsn)).decode()
    import psycopg_pool

    class PooledConnection(VerboseConnection):
        """Keeps the reason of the last failed login; keeps libpq's text, which may quote the URL, out of the log."""

        failure: StorageError | None = None
        works = False

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            try:
                conn = super().connect(conninfo, **kwargs)
            except (psycopg.Error, UnicodeError) as error:
                cls.failure, cls.works = classify_login_error(error), False
                raise psycopg.OperationalError(str(cls.failure)) from None
            cls.failure, cls.works = None, True
            return conn

    class LazyPool(psycopg_pool.ConnectionPool[Any]):
        """Starts its workers with the first request; a request that times out raises the reason."""

        def getconn(self, timeout: float | None = None) -> Any:
            if self.closed:
                self.open()  # raises if the pool was closed permanently
            deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
            look_s = _FIRST_LOOK_S
            PooledConnection.failure = None  # only later failures count
            while True:
                left = deadline - time.monotonic()
                # Not when all are lent out: a request that asks again goes to the end of the queue.
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
        reconnect_timeout=0.0,  # a waiting request asks again; the intervals of the pool's own attempts would grow
        open=False,
    )
