"""Many small migrations in one message, each in its own transaction, to save round trips."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from predeploy.apply.executor import Kind
from predeploy.connection.query_message import Message, Part
from predeploy.connection.session import is_lost, join, reset_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.errors import Diagnostic

    from predeploy.apply.executor import Execution
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import SessionProfile
    from predeploy.migrations.migration import Migration

MAX_MESSAGE_CHARS = 1 << 17  # the server parses a message as a whole, and logs it as a whole when a migration fails
# Explicit, because the previous migration may have set default_transaction_...
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
CAN_RAISE_NOTICE = (
    "SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql' AND pg_catalog.has_language_privilege(oid, 'USAGE')"
)
_CLAIM_CHARS = 400


class BatchNotParsed(Exception):
    """The server could not parse the message: nothing has run."""


class BatchInterrupted(Exception):
    """The reset after a committed migration failed: nothing after it has run."""


class BatchMessage(NamedTuple):
    """The migrations of one message, and the message."""

    executions: Sequence[Execution]
    message: Message


class Batch:
    """Puts small transactional migrations into one message, with a reset and a notice between them.

    The server buffers results until it has 8 kB or the message ends, but a notice flushes them, so that each migration
    is logged when it is committed. The notice is an INFO, which reaches every client and no server log. If the
    role is allowed to raise it, CAN_RAISE_NOTICE returns a row.
    """

    def __init__(self, conn: Connection, profile: SessionProfile, *, can_raise_notice: bool) -> None:
        self._conn = conn
        self._profile = profile
        self._notice = f"pg-predeploy {os.urandom(12).hex()}"
        flush = f"DO LANGUAGE plpgsql 'BEGIN RAISE INFO ''{self._notice}''; END'"
        before, after = join(_BEGIN), join(flush, "COMMIT")
        between = f"{before.sql}{profile.reset.sql}{after.sql}"
        statements = before.statements + profile.reset.statements + after.statements
        self._between = Part(Kind.RESET, between, statements, quiet=True)
        self._end = Part(Kind.RESET, profile.reset.sql, profile.reset.statements, quiet=True)
        self.is_possible = can_raise_notice  # until a reset fails; replaced by tests/faults/planted.py

    def chars(self, migration: Migration) -> int:
        """Return about how many characters a migration takes in a message."""
        return len(self._between.sql) + _CLAIM_CHARS + len(migration.sql)

    def is_marker(self, notice: Diagnostic) -> bool:
        """Return whether a notice is the one between two migrations."""
        return notice.message_primary == self._notice

    def compose(self, executions: Sequence[Execution]) -> BatchMessage:
        """Put loaded migrations into one message."""
        parts: list[Part] = []
        for index, execution in enumerate(executions):
            parts += execution.parts(execution.load(), index)
            parts.append(self._end if execution is executions[-1] else self._between)
        return BatchMessage(executions, Message(parts))

    def run(
        self, batch: BatchMessage, on_start: Callable[[Execution], None], meanwhile: Callable[[], None]
    ) -> Iterator[Execution]:
        """Send it, call `on_start` with each migration that starts, and yield each as soon as it is committed.

        `meanwhile` is called once, while the server works. An error belongs to the migration that started last: raise
        what `Execution.run` would raise. Raise `BatchNotParsed` or `BatchInterrupted` if it belongs to none, and a
        psycopg error when the connection is lost.
        """
        waiting = iter(batch.executions)
        running = next(waiting)
        running.start()
        on_start(running)
        try:
            for part, result in batch.message.send(self._conn, meanwhile):
                if running.on_result(part, result):
                    yield running
                    if following := next(waiting, None):
                        running = following
                        running.start()
                        on_start(running)
        except psycopg.Error as error:
            if is_lost(self._conn):
                raise
            if not batch.message.started:
                raise BatchNotParsed from None
            if batch.message.part.kind is not Kind.RESET:
                raise running.classify_error(error, batch.message, running.load()) from None
            self.is_possible = False
            reset_again(self._conn, self._profile)
            raise BatchInterrupted from None
