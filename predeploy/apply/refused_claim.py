"""Why a migration has no row: another runner has applied it, another runner holds the lock, or the table refuses it.

A claim is refused by an error, or by a row that is missing at the end. The error alone does not determine the cause: a
unique violation may also come from a case-insensitive column or from a trigger. So after the rollback, the row of
exactly this name is read, and only if it exists, another runner has applied the migration.
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
_ABOUT_DATA = ("22", "23", "42")  # classes whose advice is about the statements of a file, which a claim is not
_LET_IN = "lets the role read and insert every row"


class AlreadyApplied(Exception):
    """Another runner has committed this migration since the table was read."""


class LockUnavailable(Exception):
    """Another runner holds the lock, because a migration released it or because a pooler shares the session.

    It is also raised if a migration has stored settings for new sessions, so this session no longer has current ones.
    """


class ClaimRefused(Exception):
    """The server refused a migration's row with `error`, or with None if the row is missing at the end.

    `failure` describes the error. Call `explain` once the transaction has been rolled back.
    """

    def __init__(self, failure: MigrationFailure, error: psycopg.Error | None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.error = error

    def explain(
        self, conn: Connection, table: MigrationsTable, name: str, *, may_lack_lock: bool | None
    ) -> AlreadyApplied | LockUnavailable | MigrationFailure:
        """Return what the refusal means for the migration `name`.

        `may_lack_lock` says whether the claim inserts NULL if another runner holds the lock; it is None if that was
        the previous answer and has to be checked. Raise `PostgresRefused` if the role lacks a privilege, or if row
        security is in the way.
        """
        diag = self.error.diag if self.error else None
        is_null = isinstance(self.error, psycopg.errors.NotNullViolation)
        if is_null and may_lack_lock and _column(diag, table) == "name":
            return LockUnavailable()
        may_be_applied = isinstance(self.error, (psycopg.errors.UniqueViolation, psycopg.errors.DivisionByZero))
        if may_be_applied and table.is_claimed_by_another(conn, name):
            return AlreadyApplied()
        from predeploy.apply.table_facts import read_facts  # another runner is a common cause, the others are not

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
            self.failure.message = f"{table.name} does not let this run update it"
        return self._intercepted(facts, table)

    def _not_unique(self, conn: Connection, facts: TableFacts, table: MigrationsTable, name: str) -> MigrationFailure:
        """Explain a unique violation although no row of exactly this name can be read."""
        index = self.failure.fields.get("constraint", "")
        if facts.index_on and (similar := table.similar_name(conn, name)):
            change = f'run ALTER TABLE {table.name.sql} ALTER COLUMN name TYPE text COLLATE "C"'
            return self._failure(
                f"the name column of {table.name} is case-insensitive, and {similar} is recorded",
                f"Rename one of the files, or {change if facts.index_on == 'name' else f'drop the index {index}'}.",
            )
        if facts.has_row_security:
            raise PostgresRefused(
                f"Row security hides rows of {table.name} from the role: {name} cannot be recorded, but its row cannot "
                f"be read. Run ALTER TABLE {table.name.sql} DISABLE ROW LEVEL SECURITY, or add a policy that "
                f"{_LET_IN}.",
                "privilege",
            )
        return self._failure(
            f"{self.failure.message}, although {table.name} has no row of this name",
            f"Run REINDEX TABLE {table.name.sql}."
            if facts.index_on == "name"
            else f"Drop the constraint or index {index}: only the name may be unique.",
        )

    def _null(
        self, conn: Connection, facts: TableFacts, table: MigrationsTable, *, may_lack_lock: bool | None
    ) -> MigrationFailure | LockUnavailable:
        """Explain a NULL in the table: in `name`, it means that another runner holds the lock, or a trigger set it."""
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
        """Explain an error by the table's triggers and rules, if it has any."""
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
        self.failure.fields.pop("sqlstate", None)  # of the row check, which divides by the number of rows
        cause = f"the {facts.interceptors}" if facts.interceptors else "row security"
        return self._failure(
            f"its row is missing from {table.name} at the end; the table has {cause}",
            _remedy_for_interceptors(facts, table)
            if facts.interceptors
            else f"Run ALTER TABLE {table.name.sql} DISABLE ROW LEVEL SECURITY, or add a policy that {_LET_IN}.",
            what="",
        )

    def _failure(self, message: str, advice: str | None, what: str = "its row was refused: ") -> MigrationFailure:
        fields = {key: value for key, value in self.failure.fields.items() if key not in {*_OF_THE_FILE, "advice"}}
        return MigrationFailure(f"{what}{message}", **fields, advice=advice)


def _column(diag: Diagnostic | None, table: MigrationsTable) -> str | None:
    return diag.column_name if diag and _is_of_table(diag, table) else None


def _is_of_table(diag: Diagnostic | None, table: MigrationsTable) -> bool:
    return diag is not None and (diag.schema_name, diag.table_name) == (table.name.schema, table.name.name)


def _remedy_for_interceptors(facts: TableFacts, table: MigrationsTable) -> str:
    return f"Fix or drop the {facts.interceptors} on {table.name}, which must keep every row unchanged."


def _refused_privilege(
    error: psycopg.Error, facts: TableFacts, table: MigrationsTable, *, updates: bool
) -> PostgresRefused:
    from predeploy.apply.table_facts import remedy_for_privilege, sentence_of

    remedy = remedy_for_privilege(facts, table.name, updates=updates)
    if not remedy and facts.has_row_security and error.diag.source_function == "ExecWithCheckOptions":
        off = f"ALTER TABLE {table.name.sql} DISABLE ROW LEVEL SECURITY"
        remedy = f" Run {off}, or add a policy that {_LET_IN}."
    elif not remedy and facts.interceptors:
        remedy = f" Fix the {facts.interceptors} on the table, or give the role what it needs."
    return PostgresRefused(f"The role cannot write to {table.name}: {sentence_of(error)}.{remedy}", "privilege")
