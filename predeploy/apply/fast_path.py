"""One look, through libpq alone, at whether there is anything to do: psycopg is imported for those who have."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from predeploy.apply.drift import warn_of_drift
from predeploy.apply.turn import end_turn, take_turn
from predeploy.connection import libpq
from predeploy.connection.background import Apart
from predeploy.connection.conninfo import written
from predeploy.connection.dsn import parse_dsn
from predeploy.connection.parameters import parameters, tell_ready

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.migrations.directory import MigrationFiles, MigrationResult

log = logging.getLogger(__name__)

LONGEST_S = 2.0
_NO_TABLE = b"42P01"
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.05

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
    wait_s: float


class Glance:
    """A look that begins at once, beside what else there is to do: a login and one message.

    It lasts 2 s at most, and half of either wait. Where it does not see that all is applied it says nothing, for
    whatever reason: psycopg's way, which comes then, finds out why and tells it.
    """

    def __init__(self, dsn: str, *, wait_timeout: float, lock_wait_timeout: float) -> None:
        self._started = time.monotonic()
        self._dsn = dsn
        self._seconds = min(LONGEST_S, wait_timeout / 2)
        self._deadline = self._started + self._seconds
        self._patient_until = min(self._deadline, self._started + lock_wait_timeout / 2)
        self._session: libpq.Session | None = None
        self._first: Sight | None = None
        self.has_seen = False  # what `_migrations` holds, or that there is none
        self.waited_s = 0.0  # for a runner at work
        library = libpq.load() if self._seconds > 0 else None
        self._apart = Apart(lambda: self._begin(library)) if library else None

    def finds_all_applied(self, files: MigrationFiles, result: MigrationResult) -> bool:
        """Tell whether every file has been applied; if so, log and record it as a run that finds nothing to do."""
        names = [migration.name for migration in files.migrations]
        seen = None
        with suppress(Exception):  # whatever it is, it will be met again and told
            seen = self._look_for({*names})
        if seen is None:
            return False
        self.close()
        tell_ready(self._dsn, attempt=1, wait_s=seen.wait_s, server_version=seen.server_version)
        result.skipped[:] = names
        warn_of_drift(files, seen.checksums)
        return True

    def close(self) -> bool:
        """End the session, and with it the turn that it may have been given; tell whether there was one."""
        session, self._session = self._session, None
        if session:
            session.close()
        return session is not None

    @property
    def since(self) -> float:
        """When the wait for the server began, by the monotonic clock."""
        return self._started + self.waited_s

    def _begin(self, library: libpq.Libpq) -> libpq.Session:
        session = libpq.Session(library, written(parse_dsn(self._dsn) | parameters(self._dsn)), self._deadline)
        try:
            self._first = self._look(session)
        except BaseException:
            session.close()
            raise
        return session

    def _look_for(self, names: set[str]) -> Sight | None:
        """Return what is seen once it has all these names; None when it is on us, or not to be seen."""
        if not self._apart:
            return None
        session = self._session = self._apart.wait(self._deadline - time.monotonic())
        if _has_all(self._first, names):
            return self._first
        since, pause = time.monotonic(), FIRST_PAUSE_S
        while time.monotonic() < self._patient_until:
            turn = take_turn(session)
            if turn.is_ours and not self.waited_s:
                return None
            seen = self._look(session) if turn.has_table else None
            if _has_all(seen, names):
                return seen
            if turn.is_ours:
                return None
            end_turn(session)
            if not self.waited_s:
                log.info("Another runner is at work: waiting for it", extra={"event": "turn.waiting"})
            time.sleep(pause)
            self.waited_s, pause = time.monotonic() - since, min(1.5 * pause, LONGEST_PAUSE_S)
        self.close()
        return None

    def _look(self, session: libpq.Session) -> Sight | None:
        """Return what is there; None where that is not to be had, or the server is read-only."""
        message = _LOOK.format(milliseconds=max(round(1000 * self._seconds), 1))
        try:
            read_only, count, *columns = session.ask(message.encode())
        except libpq.OtherAnswer as other:
            self.has_seen = other.sqlstate == _NO_TABLE
            return None
        names, checksums = (_taken_apart(text.decode(), int(count)) for text in columns)
        if read_only != b"off" or names is None or checksums is None:
            return None
        self.has_seen = True
        wait_s = time.monotonic() - self.since
        return Sight(dict(zip(names, checksums, strict=True)), session.parameter(b"server_version"), wait_s)


def _has_all(seen: Sight | None, names: set[str]) -> bool:
    return seen is not None and seen.checksums.keys() >= names


def _taken_apart(text: str, count: int) -> list[str] | None:
    """Return a column's values; None where one holds a separator, which makes a part too many."""
    values = text.split("\n") if count else []
    return values if len(values) == count else None
