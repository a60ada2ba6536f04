"""Track which statement of a migration is running, by counting results; the watcher's thread reads the counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predeploy.migrations.chunks import Chunk


class StatementCounter:
    """Counts the results of one migration, including the result of its COMMIT.

    The server buffers up to 8 kB of a message's results, so the count gives only a lower bound for the number of the
    running statement, unless the message's last statement is running.
    """

    def __init__(self) -> None:
        self.results = 0
        self.chunk: Chunk | None = None
        self._next = 0
        self._end = 0

    def start_message(self, chunk: Chunk, first: int = 0, end: int | None = None) -> None:
        """Record that a message was sent with the chunk's statements from `first` to `end` (exclusive)."""
        self._next = chunk.first + first
        self._end = chunk.first + (len(chunk.scan.statements) if end is None else end)
        self.chunk = chunk

    def count(self) -> None:
        """Count one result."""
        self.results += 1
        self._next += 1

    def fields(self) -> dict[str, Any]:
        """Return `statement` (1-based), `line` and `command`, or `statement_at_least`; and the total, `statements`."""
        chunk = self.chunk  # another thread may replace it
        if not chunk or not chunk.scan.statements:
            return {}
        statements = chunk.scan.statements
        end = min(max(self._end - chunk.first, 1), len(statements))
        at = max(min(self._next - chunk.first, end - 1), 0)
        number = chunk.first + at + 1
        of = {} if chunk.total is None else {"statements": chunk.total}
        if at < end - 1:
            return {"statement_at_least": number, **of}
        fields = {"statement": number, **of, "line": chunk.lines + statements[at].line}
        from predeploy.sql.command_tag import command_of  # rarely needed: most migrations end first

        command = command_of(statements[at].words)
        return {**fields, "command": command} if command else fields
