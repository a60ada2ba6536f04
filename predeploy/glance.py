"""One look, through libpq alone, at whether there is anything to do: psycopg is imported for those who have."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from predeploy import libpq
from predeploy.conninfo import written
from predeploy.deadline import within
from predeploy.drift import warn_of_drift
from predeploy.dsn import parse_dsn
from predeploy.login import parameters, tell_ready

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.migrations import MigrationFiles, MigrationResult

LONGEST_S = 2.0

# Each column as one text, which its separators and the number of rows take apart again, unless a value holds one:
# 10,000 rows take 5 ms so, and 60 as rows. A table that lacks `checksum` has that of the one-row table beside it.
# The timeout is the server's, for a look that waits behind another session's lock when we have gone.
_LOOK = """
    SET LOCAL statement_timeout = {milliseconds};
    SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.count(*),
           pg_catalog.string_agg(t.name, E'\\n'), pg_catalog.string_agg(coalesce(t.checksum, ''), E'\\n')
    FROM (SELECT NULL::text AS checksum) AS beside,
         LATERAL (SELECT name, checksum, applied_at FROM _migrations) AS t
"""


class Sight(NamedTuple):
    """What was seen in `_migrations`: each name with its checksum, which is empty where there is none."""

    checksums: Mapping[str, str]
    server_version: str | None


def finds_all_applied(dsn: str, files: MigrationFiles, result: MigrationResult, *, wait_timeout: float) -> bool:
    """Tell whether every file has been applied; if so, log and record it as a whole run that finds nothing to do."""
    started = time.monotonic()
    seen = look(dsn, wait_timeout=wait_timeout)
    names = [migration.name for migration in files.migrations]
    if seen is None or not seen.checksums.keys() >= set(names):
        return False
    tell_ready(dsn, attempt=1, started=started, server_version=seen.server_version)
    result.skipped[:] = names
    warn_of_drift(files, seen.checksums)
    return True


def look(dsn: str, *, wait_timeout: float) -> Sight | None:
    """Return what has been applied, seen in one login and one round trip, within 2 s and half of the wait.

    None where that was not to be had, for whatever reason, or the server is read-only: psycopg's way, which comes
    then, finds out why and tells it.
    """
    seconds = min(LONGEST_S, wait_timeout / 2)
    library = libpq.load()
    if library is None or seconds <= 0:
        return None
    conninfo = written(parse_dsn(dsn) | parameters(dsn))
    deadline = time.monotonic() + seconds

    def log_in_and_ask() -> Sight | None:
        with libpq.Session(library, conninfo, deadline) as session:
            message = _LOOK.format(milliseconds=max(round(1000 * seconds), 1))
            read_only, count, *columns = session.ask(message.encode())
            names, checksums = (_taken_apart(text.decode(), int(count)) for text in columns)
            if read_only != b"off" or names is None or checksums is None:
                return None
            return Sight(dict(zip(names, checksums, strict=True)), session.parameter(b"server_version"))

    with suppress(Exception):  # whatever it is, it will be met again and told
        return within(seconds, log_in_and_ask)
    return None


def _taken_apart(text: str, count: int) -> list[str] | None:
    """Return a column's values; None where one holds a separator, which makes a part too many."""
    values = text.split("\n") if count else []
    return values if len(values) == count else None
