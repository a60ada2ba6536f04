"""Stop a run that may apply migrations a second time.

Another tool may have applied them to the database, or their history may be in a schema that is no longer in the search
path.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from predeploy.adopt.histories import look_around, read_checksums, with_rows
from predeploy.errors import ConfigurationError, StorageError
from predeploy.sql.table_name import TableName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.adopt.histories import History, Surroundings
    from predeploy.connection.connect import Connection
    from predeploy.migrations.migration import MigrationFiles

log = logging.getLogger(__name__)


def check_surroundings(
    conn: Connection, table: TableName, files: MigrationFiles, *, foreign_history: str = "stop"
) -> None:
    """Raise `ConfigurationError` if a history has rows; otherwise warn if the schema is not empty.

    A history belongs to another tool, or is a table with the same name in another schema that records one of the files.
    Call this function if nothing is recorded and a migration is pending. If `foreign_history` is "ignore", other
    tools' histories are not read. Raise `PostgresRefused` if a history cannot be read.
    """
    found = look_around(conn, table)
    refuse_second_table(conn, found, table, files)
    if foreign_history == "stop" and (histories := with_rows(conn, found.histories)):
        raise ConfigurationError(_sentence(histories, table))
    if found.tables:
        _warn_not_empty(found, table)


def warn_of_surroundings(
    conn: Connection, table: TableName, files: MigrationFiles, *, foreign_history: str = "stop"
) -> None:
    """Log a warning where `check_surroundings` would raise an error."""
    try:
        check_surroundings(conn, table, files, foreign_history=foreign_history)
    except StorageError as error:
        log.warning("%s", error, extra={"event": "schema.foreign_history"})


def refuse_second_table(conn: Connection, found: Surroundings, table: TableName, files: MigrationFiles) -> None:
    """Raise `ConfigurationError` if a table in another schema records one of the files."""
    checksums = {migration.name: migration.checksum for migration in files.migrations}
    for other, has_checksum in found.elsewhere:
        recorded = read_checksums(conn, other, has_checksum=has_checksum)
        if any(recorded[name] in {None, checksums[name]} for name in recorded.keys() & checksums.keys()):
            here = f", or MIGRATE_TABLE={TableName(table.name, found.schema).setting} to begin a new history"
            raise ConfigurationError(
                f"{other} records these migrations, but schema {other.schema} is not in the search_path that the role "
                f"or the database sets. Set MIGRATE_TABLE={other.setting} to continue that history"
                f"{here if found.schema else ''}."
            )


def command_for(history: History) -> str:
    """Return the command that records the applied migrations of a history."""
    return f"pg-predeploy baseline {f'--from {history.tool.name}' if history.tool.is_importable else '--through NAME'}"


def named(histories: Sequence[History]) -> str:
    """Return the tables with their tools, as part of a sentence."""
    names = [f"{history.table} (the {history.tool.title} history)" for history in histories]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sentence(histories: Sequence[History], table: TableName) -> str:
    has = "has" if len(histories) == 1 else "have"
    commands = " or ".join(dict.fromkeys(command_for(history) for history in histories))
    through = "" if all(history.tool.is_importable for history in histories) else " (NAME: the last applied file)"
    return (
        f"Another tool may have applied these migrations: {named(histories)} {has} rows, but {table} has none. "
        f"Run {commands}{through} to record what is already applied. If the history belongs to another application, "
        "set MIGRATE_FOREIGN_HISTORY=ignore."
    )


def _warn_not_empty(found: Surroundings, table: TableName) -> None:
    tables = f"{found.tables} table{'s' if found.tables > 1 else ''}"
    log.warning(
        "Schema %s has %s, but %s has no rows: if the migrations were applied by hand or by another tool, statements "
        "such as INSERT and UPDATE take effect a second time. Record what is applied with pg-predeploy baseline",
        found.schema,
        tables,
        table,
        extra={"event": "schema.not_empty", "schema": found.schema, "tables": found.tables},
    )
