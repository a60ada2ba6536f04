"""A pool for programs that live on: the one-shot run needs one connection and no threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from predeploy.postgres import parameters
from predeploy.refusals import explain

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from predeploy.errors import StorageError


def create_db(dsn: str | None, *, max_size: int = 10) -> ConnectionPool[Any]:
    """Return a pool of at most `max_size` connections that opens nothing until it is used.

    An idle connection is closed after 20 s, a connection attempt given up after 10 s (the URL's own
    `connect_timeout` wins). Raise `StorageError` with code `STORAGE_DB_URL_MISSING` for an empty connection
    string and `STORAGE_DB_URL_INVALID` for a malformed one.
    """
    chosen = parameters(dsn)
    import psycopg_pool

    class PooledConnection(psycopg.Connection[tuple[Any, ...]]):
        """Keeps why the last attempt failed, and libpq's words, which may quote the URL, out of the pool's log."""

        failure: StorageError | None = None

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            try:
                conn = super().connect(conninfo, **kwargs)
            except psycopg.OperationalError as error:
                cls.failure = explain(error)
                raise psycopg.OperationalError(str(cls.failure)) from None
            cls.failure = None
            return conn

    class LazyPool(psycopg_pool.ConnectionPool[Any]):
        """Starts its workers with the first request."""

        def getconn(self, timeout: float | None = None) -> Any:
            if self.closed:
                self.open()  # raises when the pool was closed for good
            return super().getconn(timeout)

    return LazyPool(
        dsn or "",
        connection_class=PooledConnection,
        kwargs=chosen,
        min_size=0,
        max_size=max_size,
        max_idle=20.0,
        open=False,
    )
