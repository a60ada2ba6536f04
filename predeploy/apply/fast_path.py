"""The fast path: check whether every migration is applied, using only libpq.

Importing psycopg would take longer than the rest of a run with nothing to apply. Unless every migration is known to be
applied, the regular run continues as if this check had not happened.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from predeploy.apply.drift import find_drift, refuse, warn
from predeploy.connection import libpq
from predeploy.connection.background import BackgroundCall
from predeploy.connection.parameters import log_connected, login_conninfo
from predeploy.errors import PostgresUnavailable
from predeploy.migrations.migration import normalize

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from predeploy.connection.dsn import Dsn
    from predeploy.migrations.migration import MigrationFiles, MigrationResult
    from predeploy.sql.table_name import TableName

log = logging.getLogger(__name__)

MAX_S = 2.0  # for the login and the query together; capped at half of MIGRATE_WAIT_TIMEOUT

# Each column is aggregated into one string and split again here: 10,000 rows take 5 ms this way, and 60 ms as rows.
# If the table has no checksum column, `checksum` is the column of the one-row table. statement_timeout ends the
# query on the server if it is still waiting for another session's lock after this process has exited.
_APPLIED = """
    SET LOCAL statement_timeout = {milliseconds};
    SELECT pg_catalog.count(*),
           pg_catalog.string_agg(t.name, E'\\n'), pg_catalog.string_agg(coalesce(t.checksum, ''), E'\\n')
    FROM (SELECT NULL::text AS checksum) AS default_values,
         LATERAL (SELECT name, checksum, applied_at FROM {table}) AS t
"""


class AppliedMigrations(NamedTuple):
    """The names in `_migrations` with their checksums; a missing checksum is an empty string."""

    checksums: Mapping[str, str]
    server_version: str | None
    wait_s: float


class FastPath:
    """Queries the server in the background while the files are read."""

    def __init__(self, dsn: Dsn, table: TableName, *, wait_timeout: float) -> None:
        self._dsn = dsn
        self._table = table
        self._started = time.monotonic()
        self._seconds = min(MAX_S, wait_timeout / 2)
        library = libpq.load() if self._seconds > 0 else None
        self._call = BackgroundCall(lambda: self._read(library)) if library else None

    def everything_is_applied(self, files: MigrationFiles, strict: Collection[str], result: MigrationResult) -> bool:
        """Return whether every migration is known to be applied; if so, log and record the outcome.

        Raise `PostgresRefused` or `DatabaseUrlInvalid` if the login failed and retrying cannot help.
        """
        applied = self._wait()
        names = [migration.name for migration in files.migrations]
        if applied is None or not applied.checksums.keys() >= {*names}:
            return False
        drift = find_drift(files, applied.checksums)
        if drift.pending:
            return False
        log_connected(self._dsn, attempt=1, wait_s=applied.wait_s, server_version=applied.server_version)
        if refuse(drift.findings, strict, result):
            failed = {error.name for error in result.errors}
            names = [name for name in names if name not in failed]
        warn((finding for finding in drift.findings if finding.kind not in strict), ("changed", "missing"))
        result.skipped[:] = names
        return True

    def _wait(self) -> AppliedMigrations | None:
        if not self._call:
            return None
        try:
            return self._call.wait(max(self._started + self._seconds - time.monotonic(), 0))
        except libpq.LoginFailed as failed:
            from predeploy.connection.login_errors import classify_login_error

            error = classify_login_error(failed, self._dsn)
            if isinstance(error, PostgresUnavailable):
                return None
            raise error from None
        except Exception:  # the regular run will hit the same error and report it
            return None

    def _read(self, library: libpq.Libpq) -> AppliedMigrations | None:
        """Log in and read the table; return None if a value contains a separator. A read-only server is enough."""
        session = libpq.Session(library, login_conninfo(self._dsn), self._started + self._seconds)
        try:
            message = _APPLIED.format(milliseconds=max(round(1000 * self._seconds), 1), table=self._table.sql)
            count, *columns = session.ask(message.encode())
            names, checksums = (_split(text.decode(), int(count)) for text in columns)
            if names is None or checksums is None:
                return None
            wait_s = time.monotonic() - self._started
            return AppliedMigrations(
                dict(zip(map(normalize, names), checksums, strict=True)), session.parameter(b"server_version"), wait_s
            )
        finally:
            session.close()


def _split(text: str, count: int) -> list[str] | None:
    """Split a column into its `count` values; return None if a value contains the separator."""
    values = text.split("\n") if count else []
    return values if len(values) == count else None
