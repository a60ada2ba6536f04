"""How far a migration has come: written as the results of its statements arrive, read by the watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predeploy.migrations.chunks import Piece


class Course:
    """Which statement of a file runs, as far as its results tell.

    The server keeps the results of one message back until it has 8 kB of them, so that the number is exact only
    where the message holds no other statement any more; otherwise it is the least that it can be. What opens and
    ends the transaction counts with the first and the last statement. `heard` is the number, from 0, of the next that
    has a result, below 0 before the file's first.
    """

    def __init__(self) -> None:
        self._piece: Piece | None = None
        self._end = 0
        self.heard = 0

    @property
    def text(self) -> str:
        """What is on its way of the file, or was last."""
        return self._piece.text if self._piece else ""

    def begin(self, piece: Piece | None) -> None:
        """Begin the file, or begin it again, or go on with another piece of it; None while there is none."""
        self._piece = piece
        self._end = self.heard = piece.first if piece else self._end

    def send(self, first: int, count: int, opening: int = 0) -> None:
        """Note that a message is on its way, with `count` statements of the file, from the one numbered `first` from 0.

        Before them stand `opening` others, which have results too.
        """
        self.heard, self._end = first - opening, first + count

    def hear(self) -> None:
        """Note that one more result has come."""
        self.heard += 1

    def fields(self) -> dict[str, Any]:
        """Return `statement` (from 1), its `line` and `command`, or `statement_at_least`; of how many `statements`."""
        piece = self._piece  # another one may come while this is told
        if not piece or not piece.scan.statements:
            return {}
        statements = piece.scan.statements
        end = min(max(self._end - piece.first, 1), len(statements))
        at = max(min(self.heard - piece.first, end - 1), 0)
        number = piece.first + at + 1
        of = {} if piece.total is None else {"statements": piece.total}
        if at < end - 1:
            return {"statement_at_least": number, **of}
        told = {"statement": number, **of, "line": piece.lines + statements[at].line}
        from predeploy.sql.command_tag import command_of  # most files take no time

        command = command_of(statements[at].words)
        return {**told, "command": command} if command else told
