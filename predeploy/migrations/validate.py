"""Reject statements and text that would block the connection or break the runner's guarantees.

Each chunk is validated before it is sent. The error message explains the problem and how to fix it, and quotes only
keywords from the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Self

from predeploy.migrations.migration import MigrationFailure
from predeploy.migrations.transaction import TransactionReader
from predeploy.sql.splitter import line_and_column, tokens
from predeploy.sql.table_name import DEFAULT_TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.migrations.chunks import Chunk
    from predeploy.migrations.migration import Migration
    from predeploy.migrations.transaction import Problem
    from predeploy.sql.splitter import Scan, Statement

_OUR_TABLE = "a no-transaction migration must not use {}, because its changes cannot be rolled back"
_RESTRICT = re.compile(r"\\(?:un)?restrict\b")
# A single lookup handles most statements, because a file may contain a million of them.
_LOOKED_AT = frozenset((word,) for word in ("COPY", "SET"))
_COPY = {
    "FROM": "COPY ... FROM STDIN is not supported; use INSERT (pg_dump --inserts or --column-inserts)",
    "TO": "COPY ... TO STDOUT is not supported; remove it",
}
# Postgres parses each message as a whole, as UTF-8 and with standard-conforming strings, so a change to one of these
# settings takes effect only in the next message, or never.
_TEXT_SETTINGS = {
    "STANDARD_CONFORMING_STRINGS": (
        {"ON", "TRUE", "YES", "1", "DEFAULT"},
        "standard_conforming_strings must stay on; remove this statement, and write E'...' for escapes",
    ),
    "CLIENT_ENCODING": (
        {"UTF8", "UTF-8", "UNICODE", "DEFAULT"},
        "client_encoding must stay UTF8; save the file as UTF-8, and remove this statement",
    ),
}
_TEXT_SETTINGS["NAMES"] = _TEXT_SETTINGS["CLIENT_ENCODING"]


class Violation(NamedTuple):
    """The line of a violation, from 1, and the reason why the text must not be sent."""

    line: int
    message: str


class ChunkReader:
    """Iterates over the valid chunks of a migration; one chunk may be read ahead while the server works."""

    def __init__(self, migration: Migration, table: str = DEFAULT_TABLE.name) -> None:
        self._chunks = _valid_chunks(migration, table)
        self._ahead: Chunk | MigrationFailure | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        """Return the next chunk, or raise `MigrationFailure` if it must not be sent."""
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, MigrationFailure):
            raise ahead
        return ahead or next(self._chunks)

    def read_ahead(self) -> None:
        """Read one chunk ahead. Hold back an error in it, because the server may report one in an earlier chunk."""
        try:
            self._ahead = next(self._chunks, None)
        except MigrationFailure as failure:
            self._ahead = failure


def _valid_chunks(migration: Migration, table: str) -> Iterator[Chunk]:
    """Yield validated chunks; SQL that is in memory is validated in full before the first chunk is yielded."""
    if migration.problem:
        raise MigrationFailure(migration.problem, line=migration.problem_line)
    valid = _validated(migration, table)
    yield from valid if migration.is_large else list(valid)


def _validated(migration: Migration, table: str) -> Iterator[Chunk]:
    reader = TransactionReader(transactional=migration.transactional)
    for chunk in migration.chunks():
        forward = reader.read(chunk)
        validate(migration, chunk, reader.problem, table)
        del chunk  # frees memory for the next chunk
        if forward.scan.statements or forward.last:
            yield forward
        del forward


def validate(
    migration: Migration, chunk: Chunk, problem: Problem | None = None, table: str = DEFAULT_TABLE.name
) -> None:
    """Raise `MigrationFailure` if a chunk must not be sent or its transaction control has a `problem`."""
    violation = find_violation(chunk.text, chunk.scan)
    if violation and not (problem and problem.line < chunk.lines + violation.line):
        raise MigrationFailure(violation.message, line=chunk.lines + violation.line)
    if problem:
        raise MigrationFailure(problem.message, line=problem.line)
    if not migration.transactional and (line := _line_with_table(chunk.text, chunk.scan.statements, table)):
        raise MigrationFailure(_OUR_TABLE.format(table), line=chunk.lines + line)


def find_violation(sql: str, scan: Scan) -> Violation | None:
    """Return the first violation in a text, or None."""
    first = min(_first_of_each_kind(sql, scan), default=None)
    return first and Violation(line_and_column(sql, first[0])[0], first[1])


def _first_of_each_kind(sql: str, scan: Scan) -> Iterator[tuple[int, str]]:
    if (nul := sql.find("\0")) >= 0:
        yield nul, "contains a NUL character, where Postgres stops reading; save the file as UTF-8 without it"
    if scan.backslash is not None:
        yield scan.backslash, _check_backslash(sql, scan.backslash)
    if scan.unterminated:
        yield (
            scan.unterminated.offset,
            f"the {scan.unterminated.what} that opens here is never closed",
        )
    for statement in scan.statements:
        if statement.words[:1] in _LOOKED_AT and (message := _check_statement(sql, statement)):
            yield statement.start, message
            break


def _check_backslash(sql: str, offset: int) -> str:
    if _RESTRICT.match(sql, offset):
        return (
            "\\restrict and \\unrestrict are psql commands that pg_dump writes; remove these lines. "
            "If the dump contains COPY, use pg_dump --inserts or --column-inserts"
        )
    return "backslash outside quotes: psql meta-commands are not supported; use SQL instead"


def _check_statement(sql: str, statement: Statement) -> str | None:
    match statement.words[:1]:
        case ("COPY",):
            return _check_copy(sql, statement)
        case ("SET",):
            return _check_text_setting(sql, statement)
    return None


def _check_copy(sql: str, statement: Statement) -> str | None:
    """Check the word after the first FROM or TO outside parentheses. A word that follows a dot is a name.

    The grammar treats STDIN and STDOUT alike, so only the direction matters.
    """
    depth, previous, direction = 0, "", ""
    for token in tokens(sql, statement):
        word = token.upper()
        if direction:
            return _COPY[direction] if word in {"STDIN", "STDOUT"} else None
        depth += (word == "(") - (word == ")")
        if word in _COPY and not depth and previous != ".":
            direction = word
        previous = word
    return None


def _check_text_setting(sql: str, statement: Statement) -> str | None:
    _, *words = (token.strip("\"'").upper() for token in tokens(sql, statement))
    if words[:1] in (["LOCAL"], ["SESSION"]):
        del words[0]
    if not words or words[0] not in _TEXT_SETTINGS:
        return None
    harmless, message = _TEXT_SETTINGS[words[0]]
    return None if words[-1] in harmless else message


def _line_with_table(sql: str, statements: list[Statement], table: str) -> int | None:
    if table.lower() not in sql.lower():
        return None
    named = (s.line for s in statements for token in tokens(sql, s) if token.strip('"').lower() == table.lower())
    return next(named, None)
