"""A file that could not be applied: why, where in it, and what to do."""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from predeploy.migrations.directory import MigrationError
from predeploy.sql.splitter import line_and_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from predeploy.migrations.chunks import Piece
    from predeploy.migrations.directory import Migration, MigrationResult
    from predeploy.sql.splitter import Statement

log = logging.getLogger(__name__)

NAMES = {
    "schema": "schema_name",
    "table": "table_name",
    "column_name": "column_name",
    "data_type": "datatype_name",
    "constraint": "constraint_name",
}
_BLOCK = re.compile(r"DO\s+(?:LANGUAGE\s+\w+\s+)?(?:\$\w*\$|')", re.IGNORECASE)
_LINE_OF_BLOCK = re.compile(r"inline_code_block\D+(\d+)")  # in whatever language, as PL/pgSQL's CONTEXT has it


class Failure(Exception):
    """A file could not be applied: an expected outcome on its way to the result.

    `fields` holds what the log says beside the message: sqlstate and condition, line and column, statement n of how
    many and its command, the names of the objects concerned, hint, advice.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = {key: value for key, value in fields.items() if value is not None}

    @property
    def sqlstate(self) -> str | None:
        """The server's error code, if it was the server that refused."""
        return self.fields.get("sqlstate")

    def __str__(self) -> str:
        names = {"sqlstate": "SQLSTATE", "line": "line", "column": "column"}
        where = ", ".join(f"{word} {self.fields[key]}" for key, word in names.items() if key in self.fields)
        return f"{self.message} ({where})" if where else self.message

    def tell(self, name: str) -> str:
        """Return a line about the file of that name, beginning as editors understand it: `004.sql:37:12: ...`."""
        place = ":".join([name, *(str(self.fields[key]) for key in ("line", "column") if key in self.fields)])
        told = [f"SQLSTATE {self.sqlstate} {self.fields.get('condition', '')}".rstrip()] if self.sqlstate else []
        told += [self.fields["command"]] if "command" in self.fields else []
        if "statement" in self.fields and (total := self.fields.get("statements")) != 1:
            told.append(f"statement {self.fields['statement']}" + (f" of {total}" if total else ""))
        return f"{place}: {self.message}" + (f" ({', '.join(told)})" if told else "")

    def blame(self, failed: Sequence[Migration]) -> None:
        """Advise to look at those that failed before, where what is missing may be what they should have made."""
        from predeploy.apply.advice import after_failure  # only where something fails

        if advice := after_failure(self.sqlstate, self.message, failed):
            self.fields["advice"] = advice


def tell_failure(
    verdict: str, migration: Migration, failure: Failure, result: MigrationResult, files: Sequence[Migration]
) -> None:
    """Record and log that a file has failed, or would, after those of `files` that have."""
    from predeploy.migrations.source_line import Excerpt  # only where something fails

    failed = {error.name for error in result.errors}
    failure.blame([earlier for earlier in files if earlier.name in failed])
    fields = {"migration": migration.name, "error": failure.message, "after_failure": bool(failed)}
    line = failure.fields.get("line")
    excerpt = Excerpt(migration.sql, line, failure.fields.get("column"), migration.path) if line else None
    result.errors.append(MigrationError(migration.name, str(failure), failure.sqlstate, line))
    extra = {"event": "migration.failed", **fields, **failure.fields, "excerpt": excerpt}
    log.error("%s: %s", verdict, failure.tell(migration.name), extra=extra)


def failure_of(error: psycopg.Error, piece: Piece, number: int, offset: int, *, transactional: bool) -> Failure:
    """Return what the server's error means for the file, of whose text nothing is told.

    `number` is that of the statement that failed, from 0, in the file, unless the server names a place: what it cannot
    read fails before the message has begun. `offset` is where the message's first character stands in the piece.
    """
    from predeploy.apply.advice import advise, condition_of  # only where something fails
    from predeploy.redaction.server_message import disclose, disclose_hint, disclose_name
    from predeploy.sql.command_tag import command_of

    diag, sql, statements = error.diag, piece.text, piece.scan.statements
    number -= piece.first
    place: dict[str, Any] = {}
    if diag.statement_position:
        at = max(offset + int(diag.statement_position) - 1, 0)
        place["line"], place["column"] = piece.place(at)
        number = bisect_right(statements, at, key=lambda statement: statement.start) - 1
    statement = statements[number] if 0 <= number < len(statements) else None
    command = command_of(statement.words) if statement else None
    start = 0
    if statement:
        start = statement.start
        place = {"line": piece.lines + _line_in_block(diag.context, sql, statement), **place}
        place |= {"statement": piece.first + number + 1, "statements": piece.total, "command": command}
    return Failure(
        disclose(diag, sql, start) or type(error).__name__,
        sqlstate=error.sqlstate,
        condition=condition_of(error.sqlstate),
        **place,
        **{key: disclose_name(getattr(diag, name), diag, sql, start) for key, name in NAMES.items()},
        hint=disclose_hint(diag, sql, start),
        advice=advise(error.sqlstate, command, diag.source_function, transactional=transactional),
    )


def _line_in_block(context: str | None, sql: str, statement: Statement) -> int:
    """Return the line that a DO block of PL/pgSQL was at, else the statement's."""
    opening = _BLOCK.match(sql, statement.start, statement.end)
    if not opening or not (lines := _LINE_OF_BLOCK.findall(context or "")):
        return statement.line
    return line_and_column(sql, opening.end())[0] + int(lines[-1]) - 1  # the outermost block's
