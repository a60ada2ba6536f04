"""Record migrations in `_migrations` without running them, because they are already applied to this database."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

import psycopg

from predeploy.adopt.histories import look_around, read_history, with_rows
from predeploy.adopt.known_tools import TOOL_NAMES
from predeploy.adopt.mapping import compare, refuse_gap
from predeploy.adopt.stop_sign import command_for, named, refuse_second_table
from predeploy.apply.migrations_table import ensure_table, locate, read_rows
from predeploy.connection.login_errors import classify_statement_error
from predeploy.connection.pooler import dedicated_backend_pid
from predeploy.connection.query_message import run
from predeploy.connection.session import autocommit, is_lost, pooled_profile, roll_back
from predeploy.errors import ConfigurationError, ConnectionLost
from predeploy.lock.advisory_lock import begin_with_lock
from predeploy.sql.table_name import TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from predeploy.adopt.histories import History
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.migrations.migration import Migration, MigrationFiles

    Choice = Callable[[Connection, Collection[str]], Mapping[str, str | None]]

log = logging.getLogger(__name__)

_ADD_CHECKSUM = "SET LOCAL lock_timeout = '2s'; ALTER TABLE {table} ADD COLUMN IF NOT EXISTS checksum TEXT"
_MAX_SENT = 1000  # rows in one message
_NO_NAME = "The name after --through is not a migration in MIGRATIONS_DIR"


def through(files: MigrationFiles, last: str | None) -> Choice:
    """Choose all files up to and including `last` in run order, or all files if it is None.

    Raise `ConfigurationError` if `last` is not a file. The message does not quote `last`, because it may be a
    connection string.
    """
    names = [migration.name for migration in files.migrations]
    if not names:
        raise ConfigurationError("MIGRATIONS_DIR has no migration to record. Check that the directory is mounted.")
    if last is None:
        last = names[-1]
    if last not in names:
        close = get_close_matches(last, names, n=1, cutoff=0.5)
        raise ConfigurationError(f"{_NO_NAME}; the closest is {close[0]}." if close else f"{_NO_NAME}. Run status.")
    chosen: dict[str, str | None] = dict.fromkeys(names[: names.index(last) + 1])
    return lambda _conn, _recorded: chosen


def from_tool(files: MigrationFiles, directory: str, tool: str, table: TableName) -> Choice:
    """Choose the files that a tool's history lists; "auto" selects the only tool that has a history.

    Raise `ConfigurationError` if `tool` is unknown.
    """
    if tool not in {"auto", *TOOL_NAMES}:
        raise ConfigurationError(f"Unknown tool after --from. Choose one of auto, {', '.join(TOOL_NAMES)}.")

    def choose(conn: Connection, recorded: Collection[str]) -> Mapping[str, str | None]:
        return _applied_there(conn, _find_history(conn, tool, table), files, directory, recorded)

    return choose


def record(
    db: ConnectionSource,
    conn: Connection,
    files: MigrationFiles,
    choose: Choice,
    *,
    table: TableName,
    lock_wait_timeout: float,
    dry_run: bool,
) -> list[str]:
    """Record the chosen files under the migration lock, in one transaction, and return the names of the new rows.

    One transaction also works through a pooler in transaction mode. If `dry_run`, only log what would be recorded, and
    do not take the lock. Raise `StorageError` on failure, in which case nothing is recorded.
    """
    profile = pooled_profile(lock_timeout=0, statement_timeout=0)
    with autocommit(conn), errors_classified(conn):
        try:
            dedicated_backend_pid(conn, db)  # rejects options that a pooler ignores, such as search_path
            run(conn, profile.setup.sql)
            if dry_run:
                run(conn, "BEGIN READ ONLY")
            else:
                begin_with_lock(conn, profile.begin.sql, timeout=lock_wait_timeout)
            chosen, new = _record(conn, files, choose, table, dry_run=dry_run)
            run(conn, "ROLLBACK" if dry_run else "COMMIT")
        finally:
            roll_back(conn, profile)
    for migration in new:
        proof = chosen[migration.name]
        how = {"checksum": " (checksum matches)", "version": " (by version only)"}.get(proof or "", "")
        fields = {"event": "migration.baselined", "migration": migration.name, "proof": proof, "dry_run": dry_run}
        log.info("%s %s%s", "Would record" if dry_run else "Recorded", migration.name, how, extra=fields)
    return [migration.name for migration in new]


def _record(
    conn: Connection, files: MigrationFiles, choose: Choice, table: TableName, *, dry_run: bool
) -> tuple[Mapping[str, str | None], list[Migration]]:
    located, current = run(conn, locate(table))
    schema = (located.get_value(0, 0) or b"").decode() if located.ntuples else ""
    existing = TableName(table.name, schema or None)
    recorded = read_rows(conn, existing) or {} if schema else {}
    if not schema:
        refuse_second_table(conn, look_around(conn, table), table, files)
    chosen = choose(conn, recorded.keys())
    new = [migration for migration in files.migrations if migration.name in chosen and migration.name not in recorded]
    for migration in new:
        if migration.checksum is None:
            raise ConfigurationError(f"{migration.name} cannot be recorded: {migration.problem}.")
    if dry_run or not new:
        return chosen, new
    answers = [located, current]
    if schema and located.get_value(0, 1) != b"t":
        _add_checksum(conn, existing)
        answers = run(conn, locate(table))
    claims = ensure_table(conn, table, answers, alter=False)
    for start in range(0, len(new), _MAX_SENT):
        batch = new[start : start + _MAX_SENT]
        run(conn, ";".join(claims.claim(conn, m.name, m.checksum, fenced=False) for m in batch))
    return chosen, new


def _add_checksum(conn: Connection, table: TableName) -> None:
    """Add the checksum column, which other implementations of the protocol do not create, if the role is allowed to."""
    try:
        with conn.transaction():  # a savepoint
            run(conn, _ADD_CHECKSUM.format(table=table.sql))
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.RaiseException,  # by an event trigger
    ):
        log.info(
            "Could not add the checksum column to %s; changed files will not be detected",
            table.name,
            extra={"event": "table.unaltered"},
        )


def _find_history(conn: Connection, tool: str, table: TableName) -> History:
    """Return the only history with rows, of `tool` or, for "auto", of any known tool."""
    found = look_around(conn, table)
    known = [history for history in found.histories if tool in {"auto", history.tool.name}]
    histories = with_rows(conn, known)
    if not histories:
        what = (
            f"{known[0].table} has no rows"
            if known and tool != "auto"
            else f"No {'migration' if tool == 'auto' else tool} history with rows exists in schema {found.schema}"
        )
        raise ConfigurationError(
            f"{what}. If the database is new, run pg-predeploy migrate; otherwise run pg-predeploy baseline "
            "--through NAME, with the last applied file."
        )
    if len({history.tool.name for history in histories}) > 1:
        names = " or ".join(f"--from {history.tool.name}" for history in histories)
        raise ConfigurationError(f"{named(histories)} have rows. Choose one of them: {names}.")
    if len(histories) > 1:
        raise ConfigurationError(
            f"{named(histories)} have rows. Run pg-predeploy baseline --through NAME, with the last applied file."
        )
    if not histories[0].tool.is_importable:
        raise ConfigurationError(
            f"{named(histories)} does not name SQL files. Run {command_for(histories[0])}, where NAME is the last file "
            "whose changes are already in the database."
        )
    return histories[0]


def _applied_there(
    conn: Connection, history: History, files: MigrationFiles, directory: str, recorded: Collection[str]
) -> Mapping[str, str | None]:
    comparison = compare(history, read_history(conn, history), files.migrations, directory)
    names = [migration.name for migration in files.migrations]
    if not comparison.applied and comparison.strays:
        in_folders = any(path.endswith(("/up.sql", "/migration.sql")) for path in files.not_read())
        raise ConfigurationError(
            f"No file in MIGRATIONS_DIR matches a row of {history.table}, which records {_few(comparison.strays)}. "
            + (
                f"Folders are not read because MIGRATIONS_DIR itself contains {_few(names)}. Move it elsewhere."
                if in_folders
                else "Check that MIGRATIONS_DIR contains the files of this history."
            )
        )
    refuse_gap(history, comparison.applied, recorded, names)
    if comparison.strays:
        fields = {"event": "migration.unmatched", "table": history.table, "names": list(comparison.strays)}
        log.warning("%s has rows without a file: %s", history.table, _few(comparison.strays), extra=fields)
    return comparison.applied


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def errors_classified(conn: Connection) -> Iterator[None]:
    """Raise a `StorageError` in place of a psycopg error."""
    try:
        yield
    except psycopg.Error as error:
        if is_lost(conn):
            from predeploy.apply.server_ended import last_message  # only needed after a lost connection

            raise ConnectionLost(
                f"The connection was lost.{last_message(error)} "
                "Run the same command again: it leaves recorded migrations alone."
            ) from None
        raise classify_statement_error(error) from None
