"""How far a migration has come: written as the results of its statements arrive, read by the watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.statements import Statement


class Course:
    """Which statement of a file runs, as far as its results tell.

    The server keeps the results of one message back until it has 8 kB of them, so that the number is exact only
    where the message holds no other statement any more; otherwise it is the least that it can be. What opens and
    ends the transaction counts with the first and the last statement.
    """

    def __init__(self) -> None:
        self._statements: Sequence[Statement] = ()
        self._end = 0
        self.heard = 0

    def begin(self, statements: Sequence[Statement]) -> None:
        """Begin the file, or begin it again."""
        self._statements, self._end, self.heard = statements, 0, 0

    def send(self, first: int, count: int) -> None:
        """Note that a message with `count` statements, from the one with the number `first` (from 0), is on its way."""
        self.heard, self._end = first, first + count

    def hear(self, number: int) -> None:
        """Note that the results of so many statements of the file have come."""
        self.heard = max(number, 0)

    def fields(self) -> dict[str, Any]:
        """Return `statement` (from 1), its `line` and `command`, or `statement_at_least`; of how many `statements`."""
        statements = self._statements
        if not statements:
            return {}
        end = min(max(self._end, 1), len(statements))
        at = min(self.heard, end - 1)
        if at < end - 1:
            return {"statement_at_least": at + 1, "statements": len(statements)}
        told = {"statement": at + 1, "statements": len(statements), "line": statements[at].line}
        from predeploy.command import command_of  # most files take no time

        command = command_of(statements[at].words)
        return {**told, "command": command} if command else told
