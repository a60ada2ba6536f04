"""Map a SQLSTATE to its condition name, and to one sentence of advice if migrations commonly run into the error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.migrations.migration import Migration

ADVICE = {
    "21000": "Make the subquery return one row, or make sure that one INSERT does not write the same row twice.",
    "22001": "Shorten the values, or widen the column in an earlier statement.",
    "22003": "Fix the value, or use a wider type such as bigint or numeric.",
    "22007": "Fix the date or time: ISO 8601 (2026-01-31 12:00) works with every DateStyle.",
    "22008": "Fix the date or time: ISO 8601 (2026-01-31 12:00) works with every DateStyle.",
    "22012": "Guard the division: NULLIF(divisor, 0).",
    "22021": "Fix the bytes, or declare their encoding: convert_from(), COPY ... (ENCODING ...).",
    "22P02": "Fix the value in the file or in the rows: it is not valid for the type.",
    "22P05": "Remove the character, which does not exist in that encoding, or use a UTF8 database.",
    "23502": "Give every row a value first: with UPDATE, with DEFAULT or in the INSERT.",
    "23503": "Add the missing rows to the referenced table first, or delete the rows that refer to them.",
    "23505": "Remove the duplicates in an earlier statement (GROUP BY ... HAVING count(*) > 1 finds them), "
    "or add ON CONFLICT to the INSERT.",
    "23514": "Fix the rows or values, or add the new constraint as NOT VALID and validate it in a later migration.",
    "23P01": "Fix the conflicting rows in an earlier statement.",
    "25001": "Put the statement itself, not a function that runs it, into a file of its own that begins with "
    "-- migrate:no-transaction.",
    "25006": "Connect to the primary, or turn off read-only mode (SET TRANSACTION, default_transaction_read_only).",
    "25P01": "Remove -- migrate:no-transaction, or remove the statement, which only works in a transaction.",
    "25P03": "Begin the file with SET idle_in_transaction_session_timeout = 0, or raise the timeout with ALTER ROLE.",
    "25P04": "Begin the file with SET transaction_timeout = 0, or raise the timeout with ALTER ROLE.",
    "2BP01": "Drop or change the dependent objects first, or add CASCADE to drop them too.",
    "2D000": "Remove COMMIT and ROLLBACK from the procedure or block, or move the CALL or DO to a file that begins "
    "with -- migrate:no-transaction.",
    "3F000": "Create the schema in an earlier statement, or fix its name or search_path.",
    "40001": "Run the migration again: another transaction has changed the same rows.",
    "40P01": "Run the migration again when there is less traffic, or lock the tables in the same order as the "
    "application.",
    "42501": "GRANT the role the missing privilege, or connect as the owner of the object.",
    "42601": "Fix the statement at the given line and column, or just before.",
    "42701": "Check the existing column: if it is the same, add IF NOT EXISTS or remove the statement; "
    "otherwise choose another name.",
    "42702": "Qualify the column with the name or alias of its table.",
    "42703": "Fix the name of the column (strings need single quotes), or add the column in an earlier statement.",
    "42704": "Fix the name, or create the missing object (a type or role, for example) in an earlier statement.",
    "42710": "Check the existing object: if it is the same, remove the statement; "
    "otherwise drop it first or choose another name.",
    "42723": "Write CREATE OR REPLACE, or drop the existing function in an earlier statement.",
    "42804": "Make the types match: add a cast, or USING for ALTER COLUMN ... TYPE.",
    "42830": "Add a PRIMARY KEY or UNIQUE constraint on the referenced columns in an earlier statement.",
    "42846": "Convert with an expression, or through text: Postgres has no cast between these types.",
    "42883": "Fix the name, cast the arguments, or create the function or its extension in an earlier statement.",
    "428C9": "Leave out the column; for an identity column, INSERT can use OVERRIDING SYSTEM VALUE.",
    "42P01": "Fix the name, add its schema, or create the table in an earlier statement.",
    "42P06": "Write CREATE SCHEMA IF NOT EXISTS, or choose another name.",
    "42P07": "Check the existing relation: if it is the same, add IF NOT EXISTS or remove the statement; "
    "otherwise choose another name.",
    "53100": "Free disk space on the database server.",
    "53200": "Split the file, or give the server more memory or a higher max_locks_per_transaction.",
    "53400": "Raise the limit named in the message, such as temp_file_limit, or process fewer rows in each statement.",
    "55006": "End the sessions that use the object, then run the migration again.",
    "55P03": "Run the migration again when no session holds the lock, or raise MIGRATE_LOCK_TIMEOUT to wait longer.",
    "55P04": "Use the new enum value in a later file: the ALTER TYPE that adds it must be committed first.",
    "57014": "Run the migration again with a longer MIGRATE_STATEMENT_TIMEOUT, unless a user cancelled the statement.",
    "57P01": "Check the server's log to see what ended the session, then run the migration again.",
    "57P02": "Check the server's log for the session that crashed, then run the migration again.",
    "57P04": "Create the database again, or fix its name in the connection string.",
    "57P05": "Raise idle_session_timeout for the role with ALTER ROLE, or set it to 0.",
    "58P01": "Put the file where the database server can open it: the server cannot see files in this container.",
}
# For ambiguous codes. Each key adds the command, the server function that raised the error, _NO_TRANSACTION, or the end
# of the English message.
_NO_TRANSACTION = "no transaction"
_USED_BY_A_VIEW = "Drop the view or rule in an earlier statement, and create it again afterwards."
_OTHER_COLUMNS = "Drop the view and create it again: CREATE OR REPLACE can only add columns at the end."
_TRANSACTION_HAS_BEGUN = (
    "Put SET TRANSACTION at the beginning of the file: the mode cannot change once a statement has run."
)
_UNKNOWN_SETTING = (
    "Remove the line if it was written for a newer Postgres version, for example by a newer pg_dump, or fix the name."
)
# The functions that report an unknown setting, in several versions of the server.
UNKNOWN_SETTING = ("find_option", "set_config_option", "assignable_custom_variable_name")
_INSTALL_EXTENSION = "Install the extension's package on the database server, or ask its administrator."
SPECIAL: dict[tuple[str | None, ...], str] = {
    ("0A000", "CREATE EXTENSION"): _INSTALL_EXTENSION,
    ("0A000", "ATExecAlterColumnType"): _USED_BY_A_VIEW,
    ("0A000", "RememberAllDependentForRebuilding"): _USED_BY_A_VIEW,
    ("25001", "SET"): _TRANSACTION_HAS_BEGUN,
    ("25001", "call_enum_check_hook"): _TRANSACTION_HAS_BEGUN,
    ("25001", _NO_TRANSACTION): "Write the statement itself into the file, not a function or block that runs it.",
    ("2D000", _NO_TRANSACTION): "Remove COMMIT and ROLLBACK: functions and blocks with EXCEPTION cannot use them.",
    **{("42704", function): _UNKNOWN_SETTING for function in UNKNOWN_SETTING},
    ("42P10", "infer_arbiter_indexes"): "Create the unique constraint for ON CONFLICT in an earlier statement.",
    ("42P16", "checkViewTupleDesc"): _OTHER_COLUMNS,
    ("42P16", "checkViewColumns"): _OTHER_COLUMNS,  # since Postgres 18
    ("55006", "CheckTableNotInUse"): "Put the statement into a later file: this transaction still uses the table.",
    ("55006", _NO_TRANSACTION, "CheckTableNotInUse"): "Move the statement out of the block that is using the table.",
    ("57014", "statement timeout"): "Raise MIGRATE_STATEMENT_TIMEOUT, which overrides the role's and the database's "
    "statement_timeout, or set statement_timeout in the file.",
    ("57014", "user request"): "Run the migration again: a user or another program cancelled the statement.",
    ("58P01", "CREATE EXTENSION"): _INSTALL_EXTENSION,
    ("58P01", "CREATE FUNCTION"): "Install the library on the database server, or ask its administrator.",
}
_CAUSE = "due to "  # canceling statement due to statement timeout
# Errors about a missing object: a failed earlier migration may be the one that creates it.
_MISSING = ("3F000", "42703", "42704", "42883", "42P01")
_QUOTED = re.compile(r'["»«„“「]([^"»«„“”」]+)["»«“”」]|([\w.]+)\(')
_MAX_NAMES = 3


def condition_of(sqlstate: str | None) -> str | None:
    """Return the condition name from appendix A of the Postgres manual (`undefined_table`), or None if unknown."""
    try:
        name = errors.lookup(sqlstate or "").__name__
    except KeyError:
        return None
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return snake.rstrip("_").removesuffix("_ext")  # psycopg's suffixes for duplicate names


def advise(
    sqlstate: str | None, command: str | None, function: str | None, message: str = "", *, transactional: bool
) -> str | None:
    """Return advice for a failed statement, given its command and the function and message of the server's error.

    Return None if there is no advice, or if the migration raised the error itself: its author wrote the message.
    """
    if not sqlstate or function in {"exec_stmt_raise", "exec_stmt_assert"}:
        return None
    keys: list[tuple[str | None, ...]] = [(sqlstate, command), (sqlstate, function)]
    keys.append((sqlstate, message.rpartition(_CAUSE)[2]))
    if not transactional:
        keys = [(sqlstate, _NO_TRANSACTION, function), *keys, (sqlstate, _NO_TRANSACTION)]
    return next((SPECIAL[key] for key in keys if key in SPECIAL), ADVICE.get(sqlstate))


def after_failure(sqlstate: str | None, message: str, failed: Sequence[Migration]) -> str | None:
    """Return advice for a missing object that a migration in `failed` may create, or None if the error is unrelated.

    The advice names the failed migrations that mention the object, or every failed migration if none mentions it.
    """
    if not failed or sqlstate not in _MISSING:
        return None
    missing = [(quoted or called).rpartition(".")[2].strip() for quoted, called in _QUOTED.findall(message)]
    patterns = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in missing if name]
    makers = [migration for migration in failed if _mentions(migration, patterns)]
    names = [migration.name for migration in makers or failed]
    shown = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return f"Fix {shown} first; this error is probably caused by its failure."


def _mentions(migration: Migration, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.search(line) for line in migration.lines() for pattern in patterns)
