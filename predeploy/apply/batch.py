"""Send many small migrations in one message, each in its own transaction, to save round trips."""

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

MAX_MESSAGE_CHARS = 1 << 17  # the server parses the whole message, and logs all of it if a migration fails
# Explicit, because the previous migration may have changed a default_transaction_* setting.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
CAN_RAISE_NOTICE = (
    "SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql' AND pg_catalog.has_language_privilege(oid, 'USAGE')"
)
_CLAIM_CHARS = 400


class BatchNotParsed(Exception):
    """The server could not parse the message, so nothing has run."""


class BatchInterrupted(Exception):
    """A reset failed after a migration was committed, so the rest of the message has not run."""


class BatchMessage(NamedTuple):
    """A message and the migrations in it."""

    executions: Sequence[Execution]
    message: Message


class Batch:
    """Puts small transactional migrations into one message, with a reset and a notice between them.

    The server buffers results until it has 8 kB or the message ends. A notice flushes the buffer, so each migration is
    logged as soon as it is committed. The notice has level INFO, which is sent to every client but never written to
    the server log. CAN_RAISE_NOTICE returns a row if the role is allowed to raise the notice.
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
        """Return the approximate number of characters that a migration adds to a message."""
        return len(self._between.sql) + len(self._profile.begin.sql) + _CLAIM_CHARS + len(migration.sql)

    def is_marker(self, notice: Diagnostic) -> bool:
        """Return whether a notice is the marker between two migrations."""
        return notice.message_primary == self._notice

    def compose(self, executions: Sequence[Execution]) -> BatchMessage:
        """Put the migrations into one message."""
        parts: list[Part] = []
        conditional = True  # only after a migration that may change the condition, because it takes the server 0.1 ms
        for index, execution in enumerate(executions):
            parts += execution.parts(execution.load(), index, conditional=conditional)
            conditional = execution.may_store_settings
            parts.append(self._end if execution is executions[-1] else self._between)
        return BatchMessage(executions, Message(parts))

    def run(
        self, batch: BatchMessage, on_start: Callable[[Execution], None], meanwhile: Callable[[], None]
    ) -> Iterator[Execution]:
        """Send the message, call `on_start` as each migration starts, and yield each migration once it is committed.

        `meanwhile` is called once, while the server works. If a migration fails, raise what `Execution.run` would
        raise. Raise `BatchNotParsed` or `BatchInterrupted` if no migration caused the error, and a psycopg error
        if the connection is lost.
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
