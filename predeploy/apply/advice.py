"""What an error's code means in one word, and what to do: one sentence for each that operators of migrations meet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.migrations.migration import Migration

ADVICE = {
    "21000": "Make sure that the subquery finds one row, or that no row is written twice by one INSERT.",
    "22001": "Shorten the values, or make the column wider in a statement before.",
    "22003": "Correct the value, or use a wider type: bigint, numeric.",
    "22007": "Correct the date or time: ISO 8601 (2026-01-31 12:00) is understood whatever DateStyle says.",
    "22008": "Correct the date or time: ISO 8601 (2026-01-31 12:00) is understood whatever DateStyle says.",
    "22012": "Guard the divisor: NULLIF(divisor, 0).",
    "22021": "Correct the bytes, or name the encoding that they are in: convert_from(), COPY ... (ENCODING ...).",
    "22P02": "Correct the value, in the file or in the rows: it cannot be read as that type.",
    "22P05": "Remove the character, which that encoding lacks, or use UTF8 as the encoding of the database.",
    "23502": "Give every row a value first: by UPDATE, by DEFAULT or in the INSERT.",
    "23503": "Add the missing rows of the referenced table, or remove those that refer to them, in a statement before.",
    "23505": "Remove the duplicates in a statement before (GROUP BY ... HAVING count(*) > 1 finds them); "
    "an INSERT can say ON CONFLICT.",
    "23514": "Correct the rows or values; a new constraint can be added NOT VALID and validated by a later file.",
    "23P01": "Correct the rows that conflict with each other, in a statement before.",
    "25001": "Put the statement itself, not a function that runs it, into a file of its own that begins with "
    "-- migrate:no-transaction.",
    "25006": "Connect to the primary, or take read-only mode away: SET TRANSACTION, default_transaction_read_only.",
    "25P01": "Take -- migrate:no-transaction away, or the statement: it means something in a transaction only.",
    "2BP01": "Drop or change what depends on it first; CASCADE, where the statement has it, drops all that.",
    "2D000": "Remove COMMIT and ROLLBACK from the procedure or block, or put it into a file of its own that begins "
    "with -- migrate:no-transaction.",
    "3F000": "Create the schema in a statement before, or correct its name or search_path.",
    "40001": "Run it again: another transaction has changed the same rows.",
    "40P01": "Run it again when less is going on, or lock the tables in the order in which the application does.",
    "42501": "GRANT the role what it lacks, or connect as the role that owns the object.",
    "42601": "Correct the statement at the line and column that are named, or just before.",
    "42701": "Look whether it is the same column: if so, write IF NOT EXISTS or remove the statement, "
    "if not, choose another name.",
    "42702": "Write the table's name or alias before the column's.",
    "42703": "Correct the column's name (a text stands in single quotes), or add the column in a statement before.",
    "42704": "Correct the name, or create the type, role or whatever it is in a statement before.",
    "42710": "Look whether it is the same: if so, remove the statement, if not, drop it before or choose another name.",
    "42723": "Write CREATE OR REPLACE, or drop the other function in a statement before.",
    "42804": "Make the types agree: with a cast, or with USING for ALTER COLUMN ... TYPE.",
    "42830": "Give the referenced columns a PRIMARY KEY or a UNIQUE constraint in a statement before.",
    "42846": "Convert with an expression or by way of text: there is no cast between these types.",
    "42883": "Correct the name or cast the arguments, or create the function or its extension in a statement before.",
    "428C9": "Leave the column out; INSERT can set an identity column with OVERRIDING SYSTEM VALUE.",
    "42P01": "Correct the name or write its schema before it, or create the table in a statement before.",
    "42P06": "Write CREATE SCHEMA IF NOT EXISTS, or choose another name.",
    "42P07": "Look whether it is the same: if so, write IF NOT EXISTS or remove the statement, "
    "if not, choose another name.",
    "53100": "Free disk space on the database server.",
    "53200": "Split the file into smaller ones, or give the server more: memory, max_locks_per_transaction.",
    "55006": "End the sessions that use it, then run it again.",
    "55P03": "Run it again when no other session holds the lock; MIGRATE_LOCK_TIMEOUT says how long to wait for it.",
    "55P04": "Use the new value in a later file: the ALTER TYPE that adds it has to be committed first.",
    "57014": "Run it again with a longer MIGRATE_STATEMENT_TIMEOUT, unless it was somebody who cancelled it.",
    "58P01": "Put the file where the database server can open it: it does not see those of this container.",
}
# Where one code means several things: the command, the function in the server's source, or that nothing is rolled back.
_NO_TRANSACTION = "no transaction"
_USED_BY_A_VIEW = "Drop the view or rule in a statement before, and create it again after."
_OTHER_COLUMNS = "Drop the view and create it anew: OR REPLACE can only add columns at its end."
_TRANSACTION_HAS_BEGUN = "Remove it: a migration runs in READ COMMITTED, and its transaction has begun before its text."
SPECIAL: dict[tuple[str | None, ...], str] = {
    ("0A000", "CREATE EXTENSION"): "Install the extension's package on the database server, or ask who runs it.",
    ("0A000", "ATExecAlterColumnType"): _USED_BY_A_VIEW,
    ("0A000", "RememberAllDependentForRebuilding"): _USED_BY_A_VIEW,
    ("25001", "SET"): _TRANSACTION_HAS_BEGUN,
    ("25001", "call_enum_check_hook"): _TRANSACTION_HAS_BEGUN,
    ("25001", _NO_TRANSACTION): "Write the statement itself into the file, not a function or block that runs it.",
    ("2D000", _NO_TRANSACTION): "Remove COMMIT and ROLLBACK: a block with EXCEPTION and a function cannot have them.",
    ("42P10", "infer_arbiter_indexes"): "Create the unique constraint that ON CONFLICT names in a statement before.",
    ("42P16", "checkViewTupleDesc"): _OTHER_COLUMNS,
    ("42P16", "checkViewColumns"): _OTHER_COLUMNS,  # since Postgres 18
    ("55006", "CheckTableNotInUse"): "Put the statement into a later file: this transaction still uses the table.",
    ("55006", _NO_TRANSACTION, "CheckTableNotInUse"): "Take the statement out of the block that has the table in use.",
    ("58P01", "CREATE EXTENSION"): "Install the extension's package on the database server, or ask who runs it.",
    ("58P01", "CREATE FUNCTION"): "Install the library on the database server, or ask who runs it.",
}
# What a file that failed before may not have made.
_MISSING = ("3F000", "42703", "42704", "42883", "42P01")
_QUOTED = re.compile(r'["»«„“「]([^"»«„“”」]+)["»«“”」]|([\w.]+)\(')
_MAX_NAMES = 3


def condition_of(sqlstate: str | None) -> str | None:
    """Return the code's name in the Postgres manual's appendix A, `undefined_table`; None for one that has none."""
    try:
        name = errors.lookup(sqlstate or "").__name__
    except KeyError:
        return None
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return snake.rstrip("_").removesuffix("_ext")  # psycopg's ways to tell two of a name apart


def advise(sqlstate: str | None, command: str | None, function: str | None, *, transactional: bool) -> str | None:
    """Return what to do about a code that a statement of that command has met, in that function of the server's.

    What a file raises itself has the words of its author for that.
    """
    if not sqlstate or function in {"exec_stmt_raise", "exec_stmt_assert"}:
        return None
    keys: list[tuple[str | None, ...]] = [(sqlstate, command), (sqlstate, function)]
    if not transactional:
        keys = [(sqlstate, _NO_TRANSACTION, function), *keys, (sqlstate, _NO_TRANSACTION)]
    return next((SPECIAL[key] for key in keys if key in SPECIAL), ADVICE.get(sqlstate))


def after_failure(sqlstate: str | None, message: str, failed: Sequence[Migration]) -> str | None:
    """Return what to do where something is missing that one of the files which `failed` before may have made.

    Those that name what is missing are named, or all where none does.
    """
    if not failed or sqlstate not in _MISSING:
        return None
    missing = [(quoted or called).rpartition(".")[2].strip() for quoted, called in _QUOTED.findall(message)]
    patterns = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in missing if name]
    makers = [migration for migration in failed if _mentions(migration, patterns)]
    names = [migration.name for migration in makers or failed]
    shown = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return f"Correct {shown} first, which failed before: this may be a consequence."


def _mentions(migration: Migration, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.search(line) for line in migration.lines() for pattern in patterns)
