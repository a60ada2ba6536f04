"""The fast path: check with libpq alone whether every migration is applied.

Importing psycopg takes longer than the rest of such a run. Unless the answer is a certain yes, the run continues as
without this check.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from predeploy.apply.drift import warn_of_drift
from predeploy.connection import libpq
from predeploy.connection.background import BackgroundCall
from predeploy.connection.parameters import log_connected, login_conninfo
from predeploy.errors import PostgresUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.connection.dsn import Dsn
    from predeploy.migrations.migration import MigrationFiles, MigrationResult

log = logging.getLogger(__name__)

MAX_S = 2.0  # for login and query; at most half of MIGRATE_WAIT_TIMEOUT

# Each column as one text, split by its separators, unless a value contains one: 10,000 rows take 5 ms so, and 60 as
# rows. Where the table has no column `checksum`, it is that of the one-row table next to it. The timeout is the
# server's, for a query that still waits for another session's lock when this process has gone.
_APPLIED = """
    SET LOCAL statement_timeout = {milliseconds};
    SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.count(*),
           pg_catalog.string_agg(t.name, E'\\n'), pg_catalog.string_agg(coalesce(t.checksum, ''), E'\\n')
    FROM (SELECT NULL::text AS checksum) AS default_values,
         LATERAL (SELECT name, checksum, applied_at FROM _migrations) AS t
"""


class AppliedMigrations(NamedTuple):
    """The names in `_migrations` with their checksums, empty if there is none."""

    checksums: Mapping[str, str]
    server_version: str | None
    wait_s: float


class FastPath:
    """Asks the server in the background, while the files are read."""

    def __init__(self, dsn: Dsn, *, wait_timeout: float) -> None:
        self._dsn = dsn
        self._started = time.monotonic()
        self._seconds = min(MAX_S, wait_timeout / 2)
        library = libpq.load() if self._seconds > 0 else None
        self._call = BackgroundCall(lambda: self._read(library)) if library else None

    def everything_is_applied(self, files: MigrationFiles, result: MigrationResult) -> bool:
        """Return whether every migration is applied; if so, log and record the outcome.

        Raise `PostgresRefused` or `DatabaseUrlInvalid` if the login failed and waiting cannot help.
        """
        applied = self._wait()
        names = [migration.name for migration in files.migrations]
        if applied is None or not applied.checksums.keys() >= {*names}:
            return False
        log_connected(self._dsn, attempt=1, wait_s=applied.wait_s, server_version=applied.server_version)
        result.skipped[:] = names
        warn_of_drift(files, applied.checksums)
        return True

    def _wait(self) -> AppliedMigrations | None:
        if not self._call:
            return None
        try:
            return self._call.wait(max(self._started + self._seconds - time.monotonic(), 0))
        except libpq.LoginFailed as failed:
            from predeploy.connection.login_errors import classify_login_error

            error = classify_login_error(failed)
            if isinstance(error, PostgresUnavailable):
                return None
            raise error from None
        except Exception:  # the run meets the same error again and reports it
            return None

    def _read(self, library: libpq.Libpq) -> AppliedMigrations | None:
        """Log in and read the table; None for a read-only server or a name that contains a separator."""
        session = libpq.Session(library, login_conninfo(self._dsn), self._started + self._seconds)
        try:
            message = _APPLIED.format(milliseconds=max(round(1000 * self._seconds), 1))
            read_only, count, *columns = session.ask(message.encode())
            names, checksums = (_split(text.decode(), int(count)) for text in columns)
            if read_only != b"off" or names is None or checksums is None:
                return None
            wait_s = time.monotonic() - self._started
            return AppliedMigrations(
                dict(zip(names, checksums, strict=True)), session.parameter(b"server_version"), wait_s
            )
        finally:
            session.close()


def _split(text: str, count: int) -> list[str] | None:
    """Return the values of a column; None if one contains a separator, which makes one too many."""
    values = text.split("\n") if count else []
    return values if len(values) == count else None
