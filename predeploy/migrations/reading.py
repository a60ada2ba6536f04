"""A file on its way to the server: the pieces that may be sent, one of them read ahead while the server works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from predeploy.apply.failure import Failure
from predeploy.migrations.chunks import pieces_of
from predeploy.migrations.large_file import Unreadable
from predeploy.migrations.validate import find_objection
from predeploy.sql.splitter import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.migrations.chunks import Piece
    from predeploy.migrations.directory import Migration
    from predeploy.sql.splitter import Statement

_OUR_TABLE = "a no-transaction file may not touch _migrations: what it does there could not be rolled back"


def find_refusal(migration: Migration, piece: Piece) -> Failure | None:
    """Return why a file is not even sent, or not beyond this piece of it."""
    if migration.problem:
        return Failure(migration.problem)
    if objection := find_objection(piece.text, piece.scan, piece.column):
        return Failure(objection.message, line=piece.lines + objection.line)
    if not migration.transactional and (line := _line_with_table(piece.text, piece.scan.statements)):
        return Failure(_OUR_TABLE, line=line)
    return None


class Reading:
    """Iterates once over the pieces of a file; raises `Failure` in place of one that must not be sent."""

    def __init__(self, migration: Migration) -> None:
        self._pieces = _sendable(migration)
        self._ahead: Piece | Failure | None = None

    def read_ahead(self) -> None:
        """Read on before the next piece is wanted, about as much as a piece: a longer statement can wait.

        Why that must not be sent is kept as well: what has been sent may fail before it.
        """
        try:
            self._ahead = next(self._pieces, None)
        except Failure as failure:
            self._ahead = failure

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, Failure):
            raise ahead
        return ahead or next(filter(None, self._pieces))


def _sendable(migration: Migration) -> Iterator[Piece | None]:
    """Yield the pieces that may be sent, None while one is not complete; raise `Failure` in place of one that may not.

    It keeps none of them.
    """
    try:
        for piece in pieces_of(migration):
            if piece and (refusal := find_refusal(migration, piece)):
                raise refusal
            yield piece
            del piece
    except Unreadable as problem:
        raise Failure(str(problem)) from None


def _line_with_table(sql: str, statements: list[Statement]) -> int | None:
    if "_migrations" not in sql.lower():
        return None
    named = (s.line for s in statements for token in tokens(sql, s) if token.strip('"').lower() == "_migrations")
    return next(named, None)
