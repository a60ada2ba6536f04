"""Convert a server error into a failure with its position and advice, and log it."""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from predeploy.migrations.migration import MigrationError, MigrationFailure
from predeploy.sql.splitter import line_and_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from predeploy.migrations.chunks import Chunk
    from predeploy.migrations.migration import Migration, MigrationResult
    from predeploy.sql.splitter import Statement

log = logging.getLogger(__name__)

_PSQL_COPY = "\\copy"  # which the server's hint for COPY suggests, and which a migration cannot use
NAMES = {
    "schema": "schema_name",
    "table": "table_name",
    "column_name": "column_name",
    "data_type": "datatype_name",
    "constraint": "constraint_name",
}
_BLOCK = re.compile(r"DO\s+(?:LANGUAGE\s+\w+\s+)?(?:\$\w*\$|')", re.IGNORECASE)
_LINE_OF_BLOCK = re.compile(r"inline_code_block\D+(\d+)")  # PL/pgSQL translates the rest of CONTEXT


def log_failure(
    verdict: str, migration: Migration, failure: MigrationFailure, result: MigrationResult, files: Sequence[Migration]
) -> None:
    """Record and log that a migration failed or would fail, and point to earlier failures among `files`."""
    from predeploy.migrations.source_line import SourceLine  # only needed after a failure

    failed = {error.name for error in result.errors}
    point_to_earlier_failure(failure, [earlier for earlier in files if earlier.name in failed])
    fields = {"migration": migration.name, "error": failure.message, "after_failure": bool(failed)}
    line = failure.fields.get("line")
    excerpt = SourceLine(migration, line, failure.fields.get("column")) if line else None
    result.errors.append(MigrationError(migration.name, str(failure), failure.sqlstate, line))
    extra = {"event": "migration.failed", **fields, **failure.fields, "excerpt": excerpt}
    log.error("%s: %s", verdict, failure.summary(migration.name), extra=extra)


def point_to_earlier_failure(failure: MigrationFailure, failed: Sequence[Migration]) -> None:
    """Advise fixing earlier failures first if those migrations may create the missing object."""
    from predeploy.apply.advice import after_failure  # only needed after a failure

    if not failure.is_explained and (advice := after_failure(failure.sqlstate, failure.message, failed)):
        failure.fields["advice"] = advice


def failure_from(
    error: psycopg.Error, chunk: Chunk, number: int | None, offset: int, *, transactional: bool
) -> MigrationFailure:
    """Convert a server error into a `MigrationFailure` that does not quote the migration's text.

    `number` is the zero-based index of the failed statement in the migration, or None if the statement is not part of
    the migration. A position reported by the server takes precedence, because the server reports a syntax error before
    it runs any statement. `offset` is the position of the message's first character in the chunk.
    """
    from predeploy.apply.advice import UNKNOWN_SETTING, advise, condition_of  # only needed after a failure
    from predeploy.apply.text_advice import text_advice
    from predeploy.redaction.server_message import redact_hint, redact_message, redact_name
    from predeploy.sql.command_tag import command_of

    diag, sql, statements = error.diag, chunk.text, chunk.scan.statements
    place: dict[str, Any] = {}
    at = 0
    if diag.statement_position:
        at = max(offset + int(diag.statement_position) - 1, 0)
        place["line"], place["column"] = chunk.place(at)
        number = chunk.first + bisect_right(statements, at, key=lambda statement: statement.start) - 1
    statement = None if number is None else chunk.statement_at(number)
    command = command_of(statement.words) if statement else None
    start = 0
    if statement and number is not None:
        start = statement.start
        place = {"line": chunk.lines + _line_in_block(diag.context, sql, statement), **place}
        place |= {"statement": number + 1, "statements": chunk.total, "command": command}
    cause = text_advice(error.sqlstate, chunk, statement, at)
    failure = MigrationFailure(
        redact_message(diag, sql, start) or type(error).__name__,
        sqlstate=error.sqlstate,
        condition=condition_of(error.sqlstate),
        **place,
        **{key: redact_name(getattr(diag, name), diag, sql, start) for key, name in NAMES.items()},
        hint=redact_hint(diag, sql, start) if _PSQL_COPY not in (diag.message_hint or "") else None,
        advice=cause
        or advise(
            error.sqlstate, command, diag.source_function, diag.message_primary or "", transactional=transactional
        ),
    )
    failure.is_explained = cause is not None or diag.source_function in UNKNOWN_SETTING
    return failure


def _line_in_block(context: str | None, sql: str, statement: Statement) -> int:
    """Return the line at which a PL/pgSQL DO block failed, or the first line of any other statement."""
    opening = _BLOCK.match(sql, statement.start, statement.end)
    if not opening or not (lines := _LINE_OF_BLOCK.findall(context or "")):
        return statement.line
    return line_and_column(sql, opening.end())[0] + int(lines[-1]) - 1  # the last number is the outermost block's
