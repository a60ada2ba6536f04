"""Run one migration, with or without a transaction: send its message, count its results and classify its error.

A message for a transactional migration has these parts (`Kind`):

    BEGIN      starts the transaction, in the mode that the migration asks for; through a transaction-mode pooler, also
               sets the session's settings
    CLAIM      INSERT INTO _migrations; also takes the migration lock until the transaction ends
    BODY       the text of the migration
    ROW_CHECK  a query that divides by the number of rows; only sent if the row may be missing at the end
    SETTINGS   turns synchronous_commit on again; only sent if the migration mentions it
    COMMIT     ends the transaction
    RESET      restores the session's original state

The server returns one result per statement, so counting results shows which part failed:

- CLAIM: if the migration's row exists after the rollback, another runner has applied the migration. If the name is
  NULL, another runner holds the lock: the claim inserts NULL if it cannot take the lock. `refused_claim` explains all
  other errors.
- ROW_CHECK: the migration, a trigger or a rule has removed the row.
- COMMIT: the migration failed, for example on a deferred constraint. A COMMIT that rolls back returns ROLLBACK.
- RESET: the migration is already committed. Its outcome does not change, and the session is reset again.
- An error with a position, before any result: the server could not parse the message, and nothing has run.
"""

from __future__ import annotations

import re
import time
from enum import Enum
from typing import TYPE_CHECKING

import psycopg

from predeploy.apply.directive_warning import advise_on_directive
from predeploy.apply.failure import failure_from
from predeploy.apply.refused_claim import AlreadyApplied, ClaimRefused, LockUnavailable
from predeploy.connection.query_message import Message, Part, run
from predeploy.connection.session import (
    COMMIT,
    SYNCHRONOUS,
    Sql,
    begin_with,
    is_in_transaction,
    is_lost,
    reset_again,
    show_migration,
)
from predeploy.connection.stored_settings import may_change
from predeploy.migrations.migration import MigrationFailure
from predeploy.migrations.transaction import control_of
from predeploy.migrations.validate import ChunkReader
from predeploy.monitor.statement_counter import StatementCounter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.pq.abc import PGresult

    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import SessionProfile
    from predeploy.migrations.chunks import Chunk
    from predeploy.migrations.migration import Migration

_INVALID_INDEXES = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.relkind = 'i'
"""
# A migration can drop a table without naming it: by dropping its schema or its owner's objects, or in a function.
_REMOVER = re.compile(r"schema|owned|\b(?:select|do|call|execute)\b", re.IGNORECASE)
_MAX_SEARCHED_CHARS = 1 << 16  # the row check is cheaper than searching a longer text
_ROW_REMOVED = (
    "the migration, a trigger or a rule removed its row from {0}, or changed the table; rolled back. "
    "Migrations must not modify {0}"
)
_NEEDS_A_SESSION = (
    "a no-transaction migration cannot run through a transaction-mode pooler, which shares sessions between clients"
)
_MOVE_OUT = "Move the statement out of the BEGIN ... COMMIT block: it cannot run in a transaction."
_TAKEN_EFFECT = "the migration's statements have taken effect and cannot be rolled back"
_NOT_COMMITTED = "the server rolled the transaction back instead of committing it"


class Kind(Enum):
    """The parts of a migration's message, in order."""

    BEGIN = "begin"
    CLAIM = "claim"
    BODY = "body"
    ROW_CHECK = "row check"
    SETTINGS = "settings"
    COMMIT = "commit"
    RESET = "reset"


class Execution:
    """Runs one migration on a connection in autocommit mode, under the lock.

    `direct_url` names a variable that may contain a connection string bypassing the pooler.
    """

    def __init__(
        self,
        conn: Connection,
        table: MigrationsTable,
        migration: Migration,
        profile: SessionProfile,
        direct_url: str = "",
    ) -> None:
        self.migration = migration
        self.counter = StatementCounter()
        self.committed = False
        self.duration_ms = 0.0
        self._conn = conn
        self._table = table
        self._profile = profile
        self._direct_url = direct_url
        self._reader = ChunkReader(migration, table.name.name)
        self._first: Chunk | None = None
        self._started = 0.0
        self._is_synchronous = True  # unless the migration changes synchronous_commit
        self._lock_was_unavailable = False

    def run(self) -> None:
        """Run the migration once, without sharing a message with other migrations.

        Raise `MigrationFailure`, `ClaimRefused` or `LockUnavailable`, after which the caller must recover the session.
        Raise a psycopg error if the connection is lost.
        """
        self.load()
        if self._profile.pooled and not self.migration.transactional:
            raise MigrationFailure(_NEEDS_A_SESSION, hint=_direct_url_hint(self._direct_url))
        self.start()
        if self.migration.transactional:
            for chunk in self._chunks():
                self._send(chunk)
            if self._profile.commit == COMMIT and not self.committed:  # replaced by tests/faults/planted.py
                raise MigrationFailure(_NOT_COMMITTED)
        else:
            self._require_lock()
            self._run_statements()
        self._end()

    def load(self) -> Chunk:
        """Return the first chunk; raise `MigrationFailure` for a migration that must not be sent."""
        if not self._first:
            self._reader = ChunkReader(self.migration, self._table.name.name)
            self._first = next(self._reader)
        return self._first

    def start(self) -> None:
        """Start the timer and reset the statement counter."""
        self._started = time.monotonic()
        self.committed = False
        self.counter.start_message(self.load())

    def parts(self, chunk: Chunk, migration: int = 0, *, conditional: bool = True) -> Iterator[Part]:
        """Yield a chunk's parts, up to the COMMIT; `migration` is the migration's zero-based index in the message.

        If the claim is `conditional`, it requires that no earlier migration has stored settings for new sessions.
        """
        if not chunk.first:
            begin, name = begin_with(self._profile.begin, chunk.transaction_mode), self._show_name(local=True)
            yield Part(Kind.BEGIN, begin.sql + name.sql, begin.statements + name.statements, migration, quiet=True)
            claim = self._claim(conditional=conditional and self._profile.renewable)
            yield Part(Kind.CLAIM, f"{claim};", 1, migration, quiet=True)  # replaced by tests/faults/planted.py
        _, body = chunk.body()
        yield Part(Kind.BODY, f"{body};" if chunk.last else body, len(chunk.scan.statements), migration)
        may_lose_row = self._may_lose_row(chunk)
        if chunk.last and may_lose_row:  # replaced by tests/faults/planted.py
            check = self._table.row_check(self._conn, self.migration.name)
            yield Part(Kind.ROW_CHECK, check.sql, check.statements, migration, quiet=True)
        self._is_synchronous = self._is_synchronous and "synchronous_commit" not in chunk.text.lower()
        if chunk.last and not self._is_synchronous:
            yield Part(Kind.SETTINGS, SYNCHRONOUS.sql, SYNCHRONOUS.statements, migration, quiet=True)
        if chunk.last:
            yield Part(Kind.COMMIT, self._profile.commit.sql, self._profile.commit.statements, migration)

    def on_result(self, part: Part, result: PGresult) -> bool:
        """Count a result and return whether the migration is now committed; raise `MigrationFailure` if rolled back."""
        self.counter.count()
        if part.kind is not Kind.COMMIT or self._profile.commit != COMMIT:
            return False
        if result.command_status != b"COMMIT":
            raise MigrationFailure(_NOT_COMMITTED)
        self.committed = True
        self._end()
        return True

    @property
    def may_store_settings(self) -> bool:
        """Whether the migration may store settings for new sessions, judged by its text if that is in memory."""
        return self.migration.is_large or may_change(self.migration.sql)

    def is_session_current(self) -> bool:
        """Return whether no migration has stored settings for new sessions since this session began."""
        return run(self._conn, f"SELECT {self._table.condition}")[0].get_value(0, 0) == b"t"

    def classify_error(self, error: psycopg.Error, message: Message, chunk: Chunk) -> MigrationFailure | ClaimRefused:
        """Classify an error that the server returned instead of the next result; see the module docstring."""
        part = message.part
        if part.kind is Kind.ROW_CHECK:
            return ClaimRefused(self._row_removed(sqlstate=error.sqlstate), None)
        offset = chunk.body()[0] - message.offset_of(Kind.BODY, part.migration)
        number = chunk.first + message.number if part.kind is Kind.BODY else None
        failure = failure_from(error, chunk, number, offset, transactional=self.migration.transactional)
        is_parsed = message.started or not error.diag.statement_position
        if part.kind is Kind.CLAIM and is_parsed:
            return ClaimRefused(failure, error)
        advise_on_directive(self.migration, failure)
        return failure

    def explain(self, refused: ClaimRefused) -> AlreadyApplied | LockUnavailable | MigrationFailure:
        """Return what a refused claim means. Call this after the session has been recovered."""
        name = self.migration.name
        if self.migration.transactional:
            may_lack_lock = None if self._lock_was_unavailable else True
            meaning = refused.explain(self._conn, self._table, name, may_lack_lock=may_lack_lock)
            self._lock_was_unavailable = isinstance(meaning, LockUnavailable)
            return meaning
        meaning = refused.explain(self._conn, self._table, name, may_lack_lock=False)
        if isinstance(meaning, MigrationFailure):
            meaning.fields["hint"] = _TAKEN_EFFECT
        return meaning

    def _row_removed(self, **fields: str | None) -> MigrationFailure:
        return MigrationFailure(_ROW_REMOVED.format(self._table.name.name), **fields)

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the chunks without keeping them in memory; a retry reads the file again."""
        chunk, self._first = self.load(), None
        yield chunk
        del chunk
        yield from self._reader

    def _send(self, chunk: Chunk) -> None:
        reset = self._profile.reset
        end = [Part(Kind.RESET, reset.sql, reset.statements, quiet=True)] if chunk.last else []
        message = Message([*self.parts(chunk), *end])
        self.counter.start_message(chunk)
        try:
            for part, result in message.send(self._conn, self._reader.read_ahead):
                self.on_result(part, result)
        except psycopg.Error as error:
            if is_lost(self._conn):
                raise
            if not self.committed:
                raise self.classify_error(error, message, chunk) from None
            reset_again(self._conn, self._profile)

    def _end(self) -> None:
        self.duration_ms = round((time.monotonic() - self._started) * 1000, 3)

    def _may_lose_row(self, chunk: Chunk) -> bool:
        """Return whether the row may be missing at the end: the table may have been dropped, or may have a trigger."""
        self._table.note_text(chunk.text)
        is_long = chunk.first > 0 or len(chunk.text) > _MAX_SEARCHED_CHARS
        return self._table.may_lose_row or is_long or bool(_REMOVER.search(chunk.text))

    def _show_name(self, *, local: bool) -> Sql:
        return show_migration(self.migration.name, local=local) if self._profile.shows_migration else Sql()

    def _require_lock(self) -> None:
        """Raise `LockUnavailable` if a claim would fail before the statements, which cannot be rolled back, run."""
        required = self._table.requirement(conditional=self._profile.renewable)
        *_, result = run(self._conn, f"{self._show_name(local=False).sql}SELECT {required}")
        if result.get_value(0, 0) != b"t":
            raise LockUnavailable

    def _run_statements(self) -> None:
        """Send each statement separately, in autocommit mode except within BEGIN ... COMMIT, then the claim."""
        concurrently = "concurrently" in self.migration.sql.lower()
        invalid_before = self._invalid_indexes() if concurrently else None
        block: int | None = None  # the number of the BEGIN of the open transaction block
        for chunk in self._chunks():
            for number, statement in enumerate(chunk.scan.statements):
                self._run_statement(chunk, number, invalid_before, block)
                if control := control_of(statement.words):
                    block = {"BEGIN": chunk.first + number, "COMMIT": None}.get(control.kind, block)
        run(self._conn, self._profile.reset.sql)  # the migration may have made the session read-only
        if invalid_before is not None and (invalid := self._invalid_indexes(invalid_before)):
            raise MigrationFailure("a concurrent index build left an INVALID index", hint=_drop_hint(invalid))
        try:
            (result,) = run(self._conn, self._claim(fenced=False))  # unfenced: the statements have taken effect
        except psycopg.Error as error:
            if is_lost(self._conn):
                raise
            raise ClaimRefused(failure_from(error, chunk, None, 0, transactional=False), error) from None
        may_be_missing = self._table.may_lose_row or result.command_status == b"INSERT 0 0"
        if may_be_missing and not self._table.is_claimed_by_another(self._conn, self.migration.name):
            raise ClaimRefused(self._row_removed(), None)

    def _run_statement(
        self, chunk: Chunk, number: int, invalid_before: set[tuple[str, str]] | None, block: int | None
    ) -> None:
        statement = chunk.scan.statements[number]
        self.counter.start_message(chunk, number, number + 1)
        try:
            run(self._conn, chunk.text[statement.start : statement.end], keep_rows=False)
        except psycopg.Error as error:
            if is_lost(self._conn):
                raise
            failure = failure_from(error, chunk, chunk.first + number, statement.start, transactional=False)
            if hint := _hint_of_effects(chunk.first + number, block):
                failure.fields["hint"] = hint
            if block is not None and error.sqlstate == "25001":
                failure.fields["advice"] = _MOVE_OUT
            if is_in_transaction(self._conn):
                run(self._conn, "ROLLBACK")
            if invalid_before is not None:
                run(self._conn, self._profile.reset.sql)  # the migration's settings must not affect the query
                if invalid := self._invalid_indexes(invalid_before):
                    failure.fields["hint"] = _drop_hint(invalid)
            raise failure from None

    def _claim(self, *, fenced: bool = True, conditional: bool = False) -> str:
        name, checksum = self.migration.name, self.migration.checksum
        return self._table.claim(self._conn, name, checksum, fenced=fenced, conditional=conditional)

    def _invalid_indexes(self, before: set[tuple[str, str]] | None = None) -> set[tuple[str, str]]:
        """Return the INVALID indexes; with `before`, only new indexes and indexes that the migration mentions."""
        found = {(schema, name) for schema, name in self._conn.execute(_INVALID_INDEXES).fetchall()}
        if before is None:
            return found
        text = self.migration.sql.lower()
        return {index for index in found if index not in before or _built_name(index[1]).lower() in text}


def _hint_of_effects(failed: int, block: int | None) -> str:
    """Describe which statements took effect before statement `failed`, counted from 0.

    `block` is the number of the BEGIN of the failed statement's block, or None outside a block.
    """
    done = failed if block is None else block
    hints = [] if block is None else ["the transaction block was rolled back"]
    if done:
        earlier = "1 earlier statement has" if done == 1 else f"{done} earlier statements have"
        hints.append(f"{earlier} taken effect and cannot be rolled back")
    return "; ".join(hints)


def _direct_url_hint(variable: str) -> str:
    example = f" (possibly the one in {variable})" if variable else ""
    return f"set DATABASE_URL to a connection string that bypasses the pooler{example}"


def _built_name(index: str) -> str:
    """Return the index name without the suffix that REINDEX CONCURRENTLY adds to its copies."""
    return re.sub(r"_cc(new|old)\d*$", "", index)


def _drop_hint(indexes: set[tuple[str, str]]) -> str:
    names = ", ".join(f'"{schema}"."{name}"' for schema, name in sorted(indexes))
    return f"drop the INVALID index before you run the migration again: DROP INDEX CONCURRENTLY {names};"
