"""Many small files in one message, each in its own transaction: over a distant line round trips are all that counts."""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from predeploy.apply.executor import NOT_COMMITTED
from predeploy.apply.failure import Failure
from predeploy.connection.session import clean_up, is_lost, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.errors import Diagnostic

    from predeploy.apply.executor import Execution
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Frame
    from predeploy.migrations.directory import Migration

MOST_CHARS = 1 << 17  # of one message: the server parses it whole, and writes it to its log when a file fails
# Not as the file before it may have set default_transaction_...; what comes after it begins like this too, or anew.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
MAY_RAISE = (
    "SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql' AND pg_catalog.has_language_privilege(oid, 'USAGE')"
)
_CLAIM_CHARS = 400
_AFTER_MARK = 2  # results: that of DO, that of COMMIT


class Unread(Exception):
    """The server could not read the message: nothing has begun, and the first `good` files may be tried without it."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good


class Disturbed(Exception):
    """What the file that was yielded last has left behind disturbed what follows it: nothing after it has begun."""


class Message(NamedTuple):
    """The text that carries executions, where in it theirs begin (`starts`), and where it begins as seen from each."""

    executions: Sequence[Execution]
    text: str
    starts: Sequence[int]
    offsets: Sequence[int]


class Batch:
    """Small transactional files that travel together, between them the session's reset and a mark.

    The server holds results back until it has 8 kB of them or the message ends, but a notice sends what there is. The
    mark raises one, so that each file is told of when it is committed: INFO, which reaches every client and no log. The
    role has to be one that may: ask MAY_RAISE, which answers with a row.
    """

    def __init__(self, conn: Connection, frame: Frame, *, may_raise: bool) -> None:
        self._conn = conn
        self._frame = frame
        self._mark = f"pg-predeploy {os.urandom(12).hex()}"
        raised = f"DO LANGUAGE plpgsql 'BEGIN RAISE INFO ''{self._mark}''; END';"
        self._between = f"{_BEGIN}{frame.reset}SELECT '{self._mark}';{raised}COMMIT;"
        self.is_possible = may_raise  # until a file disturbs what follows it

    def chars(self, migration: Migration) -> int:
        """Return about how much of a message a file takes."""
        return len(self._between) + _CLAIM_CHARS + len(migration.sql)

    def is_mark(self, notice: Diagnostic) -> bool:
        """Tell whether a notice is only ours."""
        return notice.message_primary == self._mark

    def compose(self, executions: Sequence[Execution]) -> Message:
        """Put executions into one message, of which all that has to be known is known before the one before it ends."""
        parts: list[str] = []
        starts: list[int] = []
        offsets: list[int] = []
        length = 0
        for number, execution in enumerate(executions):
            opening = (self._between if number else "") + execution.opening()
            first, text = execution.text()
            starts.append(length + len(opening))
            offsets.append(first - starts[-1])
            added = [opening, text, execution.closing()]
            length += sum(map(len, added))
            parts += added
        return Message(executions, "".join([*parts, self._frame.reset]), starts, offsets)

    def run(
        self, message: Message, follow: Callable[[Execution], None], meanwhile: Callable[[], None]
    ) -> Iterator[Execution]:
        """Send it, tell `follow` of each execution that begins, and yield each as soon as it is committed.

        While the server works `meanwhile` is called, once. What ends it belongs to the one that has begun last: what
        `Execution.run` would raise, `Unread`, `Disturbed`, or a psycopg error when the connection is lost.
        """
        try:
            yield from self._listen(message, follow, meanwhile)
        except psycopg.Error as error:
            if is_lost(self._conn):
                raise
            running = message.executions[self._number]
            if not message.executions[0].has_begun and (good := _good(error, message.starts)):
                raise Unread(good) from None
            if not (running.committed or self._skipped):
                raise running.explain(error, message.offsets[self._number]) from None
            self.is_possible = False
            clean_up(self._conn, self._frame)
            if running.committed:
                yield running
            raise Disturbed from None

    def _listen(
        self, message: Message, follow: Callable[[Execution], None], meanwhile: Callable[[], None]
    ) -> Iterator[Execution]:
        """Give each result to whom it belongs."""
        mark = self._mark.encode()
        self._skipped = 0  # how many results are nobody's
        with closing(results(self._conn, message.text, meanwhile)) as answers:  # sent when it is asked for the first
            for self._number, running in enumerate(message.executions):
                running.begin()
                follow(running)
                for result in answers:
                    if self._skipped:
                        self._skipped -= 1
                    elif not running.committed:
                        running.hear(result)
                    elif result.ntuples == 1 and result.get_value(0, 0) == mark:
                        self._skipped = _AFTER_MARK
                        break
                if not running.committed:
                    raise Failure(NOT_COMMITTED)
                running.end()
                yield running


def _good(error: psycopg.Error, starts: Sequence[int]) -> int:
    """Return how many files stand before the one that the server could not read; half of them where it does not say."""
    position = error.diag.statement_position
    return max(bisect_right(starts, int(position) - 1) - 1, 0) if position else len(starts) // 2
