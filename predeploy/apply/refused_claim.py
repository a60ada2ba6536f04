"""Explain a failed claim: another runner has applied the migration or holds the lock, or the table rejects the row.

A claim fails if the server reports an error, or if the row is missing at the end of the migration. The error alone does
not determine the cause: a case-insensitive name column or a trigger can also raise a unique violation. So the row of
exactly this name is read after the rollback. Only if it exists has another runner applied the migration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from predeploy.errors import PostgresRefused
from predeploy.lock.advisory_lock import TRY_IN_TRANSACTION
from predeploy.migrations.migration import MigrationFailure

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.apply.table_facts import TableFacts
    from predeploy.connection.connect import Connection

_OF_THE_FILE = ("line", "column", "statement", "statements", "command")
_ABOUT_DATA = ("22", "23", "42")  # SQLSTATE classes whose advice applies to a file's statements, not to a claim
_LET_IN = "lets the role read and insert every row"
_REJECTED = "the migration's row was rejected: "


class AlreadyApplied(Exception):
    """Another runner has committed this migration since the table was read."""


class LockUnavailable(Exception):
    """Another runner holds the lock, because a migration released it or because a pooler shares the session.

    It is also raised if a migration has stored settings for new sessions, because this session does not have them.
    """


class ClaimRefused(Exception):
    """The server rejected a migration's row.

    `error` is the server's error, or None if the row is missing at the end of the migration. `failure` describes the
    error. Call `explain` once the transaction has been rolled back.
    """

    def __init__(self, failure: MigrationFailure, error: psycopg.Error | None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.error = error

    def explain(
        self, conn: Connection, table: MigrationsTable, name: str, *, may_lack_lock: bool | None
    ) -> AlreadyApplied | LockUnavailable | MigrationFailure:
        """Return what the refusal means for the migration `name`.

        `may_lack_lock` is True if a NULL name means that another runner holds the lock, and None if the previous claim
        already failed for this reason, so that the lock must be checked. Raise `PostgresRefused` if the role lacks a
        privilege, or if row security hides or rejects the row.
        """
        diag = self.error.diag if self.error else None
        is_null = isinstance(self.error, psycopg.errors.NotNullViolation)
        if is_null and may_lack_lock and _column(diag, table) == "name":
            return LockUnavailable()
        may_be_applied = isinstance(self.error, (psycopg.errors.UniqueViolation, psycopg.errors.DivisionByZero))
        if may_be_applied and table.is_claimed_by_another(conn, name):
            return AlreadyApplied()
        from predeploy.apply.table_facts import read_facts  # only needed for less common causes

        facts = read_facts(conn, table.name, diag.constraint_name if diag else None)
        if not facts:
            return self.failure
        if isinstance(self.error, psycopg.errors.InsufficientPrivilege):
            raise _refused_privilege(self.error, facts, table, updates=table.is_recorded(name)) from None
        if limit := facts.limit_for(name):
            return self._failure(
                f"the name column of {table.name} holds at most {limit}",
                f"Run ALTER TABLE {table.name.sql} ALTER COLUMN name TYPE text, or shorten the file's name.",
            )
        if isinstance(self.error, psycopg.errors.UniqueViolation) and _is_of_table(diag, table):
            return self._not_unique(conn, facts, table, name)
        if is_null and _is_of_table(diag, table):
            return self._null(conn, facts, table, may_lack_lock=may_lack_lock)
        if isinstance(self.error, psycopg.errors.DivisionByZero) and table.is_recorded(name):
            self.failure.message = f"the UPDATE of {table.name} changed no row"
        return self._intercepted(facts, table)

    def _not_unique(self, conn: Connection, facts: TableFacts, table: MigrationsTable, name: str) -> MigrationFailure:
        """Explain a unique violation if no row of exactly this name can be read."""
        index = self.failure.fields.get("constraint", "")
        if facts.index_on and (similar := table.similar_name(conn, name)):
            change = f'run ALTER TABLE {table.name.sql} ALTER COLUMN name TYPE text COLLATE "C"'
            return self._failure(
                f"the name column of {table.name} is case-insensitive, and {similar} is already recorded",
                f"Rename one of the files, or {change if facts.index_on == 'name' else f'drop the index {index}'}.",
            )
        if facts.has_row_security:
            raise PostgresRefused(
                f"Row security hides rows of {table.name} from the role: the row of {name} violates a unique "
                f"constraint, but the conflicting row cannot be read. Run ALTER TABLE {table.name.sql} DISABLE ROW "
                f"LEVEL SECURITY, or add a policy that {_LET_IN}.",
                "privilege",
            )
        return self._failure(
            f"{self.failure.message}, although {table.name} has no row with this name",
            f"Run REINDEX TABLE {table.name.sql}."
            if facts.index_on == "name"
            else f"Drop the constraint or index {index}: only the name column may be unique.",
        )

    def _null(
        self, conn: Connection, facts: TableFacts, table: MigrationsTable, *, may_lack_lock: bool | None
    ) -> MigrationFailure | LockUnavailable:
        """Explain a NULL value: if it is in `name`, another runner holds the lock, or a trigger has set it."""
        column = self.failure.fields.get("column_name")
        if column != "name":
            return self._failure(
                f"column {column} of {table.name} is NOT NULL and has no default",
                f'Run ALTER TABLE {table.name.sql} ALTER COLUMN "{column}" DROP NOT NULL, or set a default.',
            )
        if may_lack_lock is None and facts.triggers:
            may_lack_lock = conn.execute(f"SELECT {TRY_IN_TRANSACTION}".encode()).fetchone() != (True,)
        return self._intercepted(facts, table) if may_lack_lock is False else LockUnavailable()

    def _intercepted(self, facts: TableFacts, table: MigrationsTable) -> MigrationFailure:
        """Attribute an error to the table's triggers and rules, if there are any."""
        if not self.error:
            return self._missing(facts, table)
        is_own = (self.failure.sqlstate or "").startswith((*_ABOUT_DATA, "P0"))
        advice = None if is_own else self.failure.fields.get("advice")
        if facts.interceptors and is_own:
            advice = _remedy_for_interceptors(facts, table)
        return self._failure(self.failure.message, advice)

    def _missing(self, facts: TableFacts, table: MigrationsTable) -> MigrationFailure:
        """Explain a row that is missing at the end although the server reported no error."""
        if not facts.interceptors and not facts.has_row_security:
            return self.failure
        self.failure.fields.pop("sqlstate", None)  # from the row check, which divides by the number of rows
        cause = f"the {facts.interceptors}" if facts.interceptors else "row security"
        return self._failure(
            f"the migration's row is missing from {table.name}, which has {cause}",
            _remedy_for_interceptors(facts, table)
            if facts.interceptors
            else f"Run ALTER TABLE {table.name.sql} DISABLE ROW LEVEL SECURITY, or add a policy that {_LET_IN}.",
            what="",
        )

    def _failure(self, message: str, advice: str | None, what: str = _REJECTED) -> MigrationFailure:
        fields = {key: value for key, value in self.failure.fields.items() if key not in {*_OF_THE_FILE, "advice"}}
        return MigrationFailure(f"{what}{message}", **fields, advice=advice)


def _column(diag: Diagnostic | None, table: MigrationsTable) -> str | None:
    return diag.column_name if diag and _is_of_table(diag, table) else None


def _is_of_table(diag: Diagnostic | None, table: MigrationsTable) -> bool:
    return diag is not None and (diag.schema_name, diag.table_name) == (table.name.schema, table.name.name)


def _remedy_for_interceptors(facts: TableFacts, table: MigrationsTable) -> str:
    return f"Fix or drop the {facts.interceptors} on {table.name}: rows must be stored unchanged."


def _refused_privilege(
    error: psycopg.Error, facts: TableFacts, table: MigrationsTable, *, updates: bool
) -> PostgresRefused:
    from predeploy.apply.table_facts import remedy_for_privilege, sentence_of

    remedy = remedy_for_privilege(facts, table.name, updates=updates)
    if not remedy and facts.has_row_security and error.diag.source_function == "ExecWithCheckOptions":
        off = f"ALTER TABLE {table.name.sql} DISABLE ROW LEVEL SECURITY"
        remedy = f" Run {off}, or add a policy that {_LET_IN}."
    elif not remedy and facts.interceptors:
        remedy = f" Fix the {facts.interceptors} on the table, or grant the role the privileges that it needs."
    return PostgresRefused(f"The role cannot write to {table.name}: {sentence_of(error)}.{remedy}", "privilege")
