"""The message that carries migrations: ordered parts with their statements, so that a result's number says what it is.

Everything that is sent for a migration goes as one simple-query message, or as several for a large one; many small
migrations share one. The server answers with one result per statement, in order, and drops the rest of the message at
the first error. So to count results is to know where the server is.
"""

from __future__ import annotations

from contextlib import closing
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from predeploy.connection.session import is_lost, join, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from psycopg.pq.abc import PGresult

    from predeploy.connection.connect import Connection


class Kind(Enum):
    """What a part of a message is for; each migration in it has its own parts, in this order."""

    BEGIN = "begin"
    CLAIM = "claim"
    BODY = "body"
    ROW_CHECK = "row check"
    COMMIT = "commit"
    RESET = "reset"


class Part(NamedTuple):
    """SQL with its number of statements, of a migration by its number in the message, from 0."""

    kind: Kind
    sql: str
    statements: int
    migration: int = 0


def part(kind: Kind, statements: Sequence[str], migration: int = 0) -> Part:
    """Return a part that consists of whole statements."""
    return Part(kind, join(statements), len(statements), migration)


class MessagePlan:
    """What is sent, part by part."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)
        self.sql = "".join(part.sql for part in self.parts)

    def offset_of(self, kind: Kind, migration: int) -> int:
        """Return where in the message a part begins, in characters."""
        offset = 0
        for part in self.parts:
            if part.kind == kind and part.migration == migration:
                return offset
            offset += len(part.sql)
        raise LookupError(kind)


class StatementFailed(Exception):
    """The server reports `error` in place of the result of a statement: that `number` of `part`, both from 0.

    `started` is False if it came before any result: the server then may not have been able to parse the message.
    """

    def __init__(self, error: psycopg.Error, part: Part, number: int, *, started: bool) -> None:
        super().__init__()
        self.error = error
        self.part = part
        self.number = number
        self.started = started


def send(
    conn: Connection, plan: MessagePlan, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[tuple[Part, PGresult]]:
    """Send a message and yield each result with its part as it arrives; call `meanwhile` once while the server works.

    Raise `StatementFailed`, or the psycopg error when the connection is lost.
    """
    places = ((part, number) for part in plan.parts for number in range(part.statements))
    place = next(places)
    started = False
    with closing(results(conn, plan.sql, meanwhile)) as answers:
        try:
            for result in answers:
                started = True
                yield place[0], result
                place = next(places, place)
        except psycopg.Error as error:
            if is_lost(conn):
                raise
            raise StatementFailed(error, *place, started=started) from None
