"""What a migration may not hold, because running it would hang the connection or undo the runner's promises.

An objection is found before anything is sent. Its message says what is wrong and what to do; of the file it
quotes nothing but keywords.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from predeploy.sql.splitter import line_and_column, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.sql.splitter import Scan, Statement

# Marks are whole lines, but for what a tool allows after its own: prose that mentions one is no mark.
_ROLLBACK_HALF = re.compile(
    r"--(?:"
    r"[ \t]*(?:migrate:down|\+(?:goose|migrate|micrate)[ \t]+down|rambler[ \t]+down|//[ \t]*@undo)"
    r"(?:[ \t].*)?"
    r"|[- \t]*(?:create above / drop below|down[ \t]+migration)[- \t]*"  # tern, node-pg-migrate
    r")(?=[\r\n]|\Z)",
    re.IGNORECASE,
)
_ABOUT_ROLLBACK_HALF = (
    "here begins the part that another tool runs to roll back, and it would be run too: keep only the part before it"
)
_RESTRICT = re.compile(r"\\(?:un)?restrict\b")
# Most statements are decided by a look into this set: a file may hold a million.
_LOOKED_AT = frozenset(
    (word,) for word in ("COPY", "SET", "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE")
)
_COPY = {
    "FROM": "COPY ... FROM STDIN takes its rows from psql, and no psql runs this file: write INSERT "
    "statements (pg_dump --inserts or --column-inserts makes them)",
    "TO": "COPY ... TO STDOUT sends its rows to a client that does not read them: remove it",
}
# A file is sent in messages that Postgres reads whole, in UTF-8 and with backslashes that mean nothing: what it says of
# that itself would count from its next message on, or never.
_READING = {
    "STANDARD_CONFORMING_STRINGS": (
        {"ON", "TRUE", "YES", "1", "DEFAULT"},
        "a migration is read with standard_conforming_strings on: remove this, and write E'...' for escapes",
    ),
    "CLIENT_ENCODING": (
        {"UTF8", "UTF-8", "UNICODE", "DEFAULT"},
        "a migration is read as UTF-8: save it so, and remove this",
    ),
}
_READING["NAMES"] = _READING["CLIENT_ENCODING"]


class Objection(NamedTuple):
    """Why a file is refused, and the line, from 1, that is to be looked at."""

    line: int
    message: str


def find_objection(sql: str, scan: Scan, column: int = 0) -> Objection | None:
    """Return the first thing in a text, by position, that must not be sent; `scan` is that of `sql`.

    In the line that the text begins in, so many characters (`column`) stand before it.
    """
    first = min(_first_of_each_kind(sql, scan, column), default=None)
    return first and Objection(line_and_column(sql, first[0])[0], first[1])


def _first_of_each_kind(sql: str, scan: Scan, column: int) -> Iterator[tuple[int, str]]:
    if (nul := sql.find("\0")) >= 0:
        yield nul, "a NUL character, at which Postgres would stop reading: save the file as UTF-8 without it"
    if scan.backslash is not None:
        yield scan.backslash, _about_backslash(sql, scan.backslash)
    if scan.unterminated:
        yield (
            scan.unterminated.offset,
            f"the {scan.unterminated.what} that opens here is never closed: close it",
        )
    for statement in scan.statements:
        if statement.words[:1] in _LOOKED_AT and (message := _about_statement(sql, statement)):
            yield statement.start, message
            break
    for comment in scan.comments:
        if _ROLLBACK_HALF.match(sql, comment) and _is_mark(sql, scan, comment, column):
            yield comment, _ABOUT_ROLLBACK_HALF
            break


def _is_mark(sql: str, scan: Scan, comment: int, column: int) -> bool:
    """Tell whether a comment has its line for itself and any statement after it."""
    line_start = max(sql.rfind("\n", 0, comment), sql.rfind("\r", 0, comment)) + 1
    if column and not line_start:
        return False
    return not sql[line_start:comment].strip() and any(statement.end > comment for statement in scan.statements[-1:])


def _about_backslash(sql: str, offset: int) -> str:
    if _RESTRICT.match(sql, offset):
        return (
            "\\restrict and \\unrestrict are pg_dump's words to psql, not SQL: remove these lines; where the "
            "dump holds COPY, make it with pg_dump --inserts or --column-inserts"
        )
    return (
        "a backslash outside quotes: psql meta-commands are not SQL, and no psql runs this file: say it in "
        "SQL, or remove it"
    )


def _about_statement(sql: str, statement: Statement) -> str | None:
    match statement.words[:1]:
        case ("COPY",):
            return _about_copy(sql, statement)
        case ("SET",):
            return _about_reading(sql, statement)
    return _about_transaction(statement.words)


def _about_transaction(words: tuple[str, ...]) -> str | None:
    match words:
        case ("COMMIT" | "ROLLBACK", "PREPARED", *_):
            return None
        case ("ROLLBACK", "TO", *_) | ("ROLLBACK", "WORK" | "TRANSACTION", "TO", *_):
            return None
        case ("START" | "PREPARE" as verb, "TRANSACTION", *_):
            keyword = f"{verb} TRANSACTION"
        case ("BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" as keyword, *_):
            pass
        case _:
            return None
    return (
        f"{keyword}: the runner begins and commits the transaction of a migration, the file may not: remove "
        "it; statements that cannot run in a transaction go into a file of their own that begins with "
        "-- migrate:no-transaction"
    )


def _about_copy(sql: str, statement: Statement) -> str | None:
    """Look behind the first FROM or TO outside parentheses; after a dot they are names.

    The grammar takes STDIN and STDOUT for each other: the direction is what counts.
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


def _about_reading(sql: str, statement: Statement) -> str | None:
    _, *words = (token.strip("\"'").upper() for token in tokens(sql, statement))
    if words[:1] in (["LOCAL"], ["SESSION"]):
        del words[0]
    if not words or words[0] not in _READING:
        return None
    harmless, message = _READING[words[0]]
    return None if words[-1] in harmless else message
