"""One file on the server: the messages that carry it, and what came back."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import psycopg

from predeploy.apply.failure import Failure, failure_of
from predeploy.connection.session import COMMIT, clean_up, is_lost, results, run
from predeploy.errors import PostgresRefused
from predeploy.lock.advisory_lock import TRY_IN_TRANSACTION
from predeploy.migrations.reading import Reading
from predeploy.monitor.statement_counter import Course

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Frame
    from predeploy.migrations.chunks import Piece
    from predeploy.migrations.directory import Migration

_INVALID_INDEXES = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.relkind = 'i'
"""
# With its schema or its owner, or by a function, a file can drop a table that it does not name.
_REMOVER = re.compile(r"schema|owned|\b(?:select|do|call|execute)\b", re.IGNORECASE)
_LOOKED_THROUGH_CHARS = 1 << 16  # in a longer file the query costs less than the look
_ROW_REMOVED = (
    "the file's row in _migrations is not there at its end, as the file, a trigger or a rule removes it, or the table: "
    "rolled back, as nobody would know what has been applied; leave the table to the runner"
)
_NOT_SHARED = "a no-transaction file cannot run through a pooler in transaction mode: its session is not its own"
NOT_COMMITTED = "the server rolled the transaction back instead of committing it"
LATER = "SET LOCAL synchronous_commit=off;"


class AlreadyApplied(Exception):
    """Another runner committed this file between our look and our claim."""


class LockHeld(Exception):
    """Another runner has the lock: ours was released by a file, or a pooler lets us hold it for a transaction only."""


class Execution:
    """Runs one migration on a connection in autocommit mode, under the lock.

    `direct_url` names a variable that may hold the way around a pooler; `course` is how far it is. Unless `durable`,
    its COMMIT does not wait for the disk: a later one that does makes it durable.
    """

    def __init__(
        self,
        conn: Connection,
        table: MigrationsTable,
        migration: Migration,
        frame: Frame,
        direct_url: str = "",
        *,
        durable: bool = True,
    ) -> None:
        self.migration = migration
        self.durable = durable
        self.course = Course()
        self.has_begun = False
        self.committed = False
        self.duration_ms = 0.0
        self._conn = conn
        self._table = table
        self._frame = frame
        self._direct_url = direct_url
        self._piece: Piece | None = None
        self._reading = Reading(migration)
        self._has_proof = False
        self._openers = frame.begin_statements + (not durable) + 1  # statements of `opening`, the last is the claim
        self._started = 0.0

    def run(self) -> None:
        """Run the file by itself, once.

        Raise `Failure`, `AlreadyApplied` or `LockHeld`, with the session still to be recovered; a psycopg error when
        the connection is lost.
        """
        self.look()
        if self._frame.shared and not self.migration.transactional:
            raise Failure(_NOT_SHARED, hint=_way_around(self._direct_url))
        self.begin()
        if self.migration.transactional:
            self._in_transaction()
        else:
            self._require_lock()
            self._one_by_one()
        self.end()

    def look(self) -> Piece:
        """Read the statements, of a file that is not kept those that are sent first; they stay until it has run.

        Raise `Failure` for a file of which nothing must be sent.
        """
        if not self._piece:
            self._reading = Reading(self.migration)
            self._piece = next(self._reading)
        return self._piece

    def begin(self) -> None:
        """Count from here on what is heard, and how long it takes."""
        self._started = time.monotonic()
        self.has_begun = self.committed = False
        piece = self.look()
        self.course.begin(piece)
        self.course.send(0, len(piece.scan.statements), self._openers)

    def end(self) -> None:
        """Note how long it has taken."""
        self.duration_ms = round((time.monotonic() - self._started) * 1000, 3)

    def text(self) -> tuple[int, str]:
        """Return the file from its first token to its last, which no comment hides, and where in it that begins."""
        return self.look().text_of()

    def opening(self) -> str:
        """Return what comes before the file's own text: its transaction's BEGIN, and the claim."""
        return f"{self._frame.begin}{'' if self.durable else LATER}{self._claim()};"

    def closing(self) -> str:
        """Return what comes after it, up to its COMMIT."""
        self._has_proof = self._needs_proof(self.look())
        proof = f"{self._table.proof(self._conn, self.migration.name)};" if self._has_proof else ""
        return f";{proof}{self._frame.commit}"

    def hear(self, result: PGresult) -> None:
        """Take the next result, one of the statements of `opening`, of the file or of `closing`."""
        self.has_begun = True
        self.course.hear()
        if result.command_status == b"COMMIT":
            self.committed = True

    def explain(self, error: psycopg.Error, offset: int) -> Failure | AlreadyApplied | LockHeld:
        """Return what the error in place of the next result means; the message begins at `offset` of the piece."""
        piece, heard = self.look(), self.course.heard
        if heard < 0 and (refused := _refused_claim(error)):
            return refused
        if self._has_proof and piece.total is not None and heard in {piece.total, piece.total + 1}:
            return Failure(_ROW_REMOVED, sqlstate=error.sqlstate)
        return failure_of(error, piece, heard, offset, transactional=self.migration.transactional)

    def _in_transaction(self) -> None:
        """Send BEGIN, claim, file, COMMIT and the session's reset as one message, a big file as several."""
        try:
            self.look()
            while self._piece:
                self._send(self._piece)
                self._piece = None
                self.course.begin(None)
                self._piece = next(self._reading, None)
        finally:
            if self.migration.path is not None:  # the next time from its beginning
                self._piece, self._reading = None, Reading(self.migration)
        if self._frame.commit == COMMIT and not self.committed:
            raise Failure(NOT_COMMITTED)

    def _send(self, piece: Piece) -> None:
        self.course.begin(piece)
        self._note(piece.text)
        messages = list(piece.messages())
        for number, (first, statements) in enumerate(messages):
            is_last = piece.last and number == len(messages) - 1
            head = "" if first else self.opening()
            tail = f"{self.closing()}{self._frame.reset}" if is_last else ""
            start, text = piece.text_of(statements) if piece.last else (0, piece.text)
            self.course.send(first, len(statements), 0 if first else self._openers)
            try:
                # No copy of a text alone; what is not kept is read on.
                for result in results(self._conn, head + text + tail, self._reading.read_ahead):
                    self.hear(result)
            except psycopg.Error as error:
                if is_lost(self._conn):
                    raise
                if not self.committed:
                    raise self.explain(error, start - len(head)) from None
                clean_up(self._conn, self._frame)

    def _needs_proof(self, piece: Piece) -> bool:
        """Tell whether the row may be gone at the end: a file may drop its table, or have left a trigger on it."""
        self._note(piece.text)
        is_long = piece.first > 0 or len(piece.text) > _LOOKED_THROUGH_CHARS
        return self._table.tampered or is_long or bool(_REMOVER.search(piece.text))

    def _note(self, sql: str) -> None:
        self._table.tampered = self._table.tampered or "_migrations" in sql

    def _require_lock(self) -> None:
        """Look whether the lock can still be had: a file before may have released it."""
        (result,) = run(self._conn, f"SELECT {TRY_IN_TRANSACTION}")
        if result.get_value(0, 0) != b"t":
            raise LockHeld

    def _one_by_one(self) -> None:
        """Send each statement alone, in autocommit, and the claim after the last."""
        conn, reset, piece = self._conn, self._frame.reset, self.look()
        concurrently = "concurrently" in self.migration.sql.lower()
        invalid_before = self._invalid_indexes() if concurrently else set()
        for number, statement in enumerate(piece.scan.statements):
            self.course.send(number, 1)
            try:
                run(conn, self.migration.sql[statement.start : statement.end])
            except psycopg.Error as error:
                if is_lost(conn):
                    raise
                failure = failure_of(error, piece, number, statement.start, transactional=False)
                if number:
                    failure.fields["hint"] = f"the {number} statement(s) before it have taken effect and stay"
                if concurrently:
                    run(conn, reset)  # what the file has set must not stand in the way of the question
                    if invalid := self._invalid_indexes(invalid_before):
                        failure.fields["hint"] = _how_to_drop(invalid)
                raise failure from None
        run(conn, reset)  # before we go on: the file may have left a read-only session
        if concurrently and (invalid := self._invalid_indexes(invalid_before)):
            raise Failure("a concurrent index build has left an INVALID index", hint=_how_to_drop(invalid))
        try:
            run(conn, self._claim(fenced=False))  # its statements have taken effect, whoever has the lock by now
        except psycopg.Error as error:
            if is_lost(conn):
                raise
            raise _refused_claim(error) or failure_of(error, piece, -1, 0, transactional=False) from None

    def _claim(self, *, fenced: bool = True) -> str:
        return self._table.claim(self._conn, self.migration.name, self.migration.checksum, fenced=fenced)

    def _invalid_indexes(self, before: set[tuple[str, str]] | None = None) -> set[tuple[str, str]]:
        """Return the INVALID indexes; with `before`, those that are new since, or that the file names."""
        found = {(schema, name) for schema, name in self._conn.execute(_INVALID_INDEXES).fetchall()}
        if before is None:
            return found
        text = self.migration.sql.lower()
        return {index for index in found if index not in before or _built_name(index[1]).lower() in text}


def _refused_claim(error: psycopg.Error) -> AlreadyApplied | LockHeld | None:
    if isinstance(error, psycopg.errors.UniqueViolation):
        return AlreadyApplied()
    if isinstance(error, psycopg.errors.NotNullViolation):
        return LockHeld()
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        raise PostgresRefused(
            "The role may not write to _migrations: GRANT SELECT, INSERT on it.", "privilege"
        ) from None
    return None


def _way_around(variable: str) -> str:
    where = f": the one in {variable}?" if variable else ""
    return f"give the direct connection string of the server in DATABASE_URL{where}"


def _built_name(index: str) -> str:
    """Return the index's name without what REINDEX CONCURRENTLY appends to the copies it builds."""
    return re.sub(r"_cc(new|old)\d*$", "", index)


def _how_to_drop(indexes: set[tuple[str, str]]) -> str:
    names = ", ".join(f'"{schema}"."{name}"' for schema, name in sorted(indexes))
    return f"an INVALID index is left behind: DROP INDEX CONCURRENTLY {names}; then run this file again"
