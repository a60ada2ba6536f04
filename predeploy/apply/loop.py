"""The pending files, applied in order, as many as possible in one message."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from predeploy.apply.batch import MOST_CHARS, Batch, Disturbed, Unread
from predeploy.apply.executor import AlreadyApplied, Execution, LockHeld
from predeploy.apply.failure import Failure
from predeploy.apply.retries import attempt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from predeploy.apply.batch import Message
    from predeploy.apply.run_state import Record
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Frame
    from predeploy.monitor.watcher import Watcher


class Pending:
    """Applies executions in order and records what becomes of each.

    A file that meets what may pass is tried `attempts` times in all; for a lock that another runner has it is waited
    `lock_wait_timeout` seconds. With `stop_on_error` nothing is run after a failure.
    """

    def __init__(
        self,
        executions: Iterable[Execution],
        record: Record,
        watcher: Watcher,
        *,
        attempts: int,
        lock_wait_timeout: float,
        stop_on_error: bool,
    ) -> None:
        self._rest = deque(executions)
        self._pending = len(self._rest)
        self._record = record
        self._watcher = watcher
        self._attempts = attempts
        self._lock_wait_timeout = lock_wait_timeout
        self._stop_on_error = stop_on_error
        self._prepared: Message | None = None

    @property
    def text(self) -> str:
        """What is on its way of the file that runs."""
        return self._rest[0].course.text if self._rest else ""

    def apply(self, conn: Connection, frame: Frame, batch: Batch) -> None:
        """Apply them all; raise a psycopg error when the connection is lost."""
        most = self._pending
        while self._rest and not self._is_stopped():
            message = self._prepared or self._message(batch, 0, most)
            self._prepared, most = None, len(self._rest)
            if not message:
                self._alone(conn, frame)
                continue
            self._record.sent = [execution.migration for execution in message.executions]
            prepare = partial(self._prepare, batch, len(message.executions))
            try:
                for execution in batch.run(message, self._follow, prepare):
                    self._rest.popleft()
                    self._applied(execution)
                continue
            except Unread as unread:
                most = unread.good
            except Disturbed:
                pass
            except (AlreadyApplied, Failure, LockHeld) as problem:
                self._alone(conn, frame, problem)
            self._prepared = None  # what goes next is another one
        for execution in self._rest:
            self._record.leave_out(execution.migration)

    def _is_stopped(self) -> bool:
        return self._stop_on_error and bool(self._record.result.errors)

    def _prepare(self, batch: Batch, sent: int) -> None:
        """Compose what goes next when all that is sent is committed, which changes nothing of it."""
        self._prepared = self._message(batch, sent, len(self._rest))

    def _message(self, batch: Batch, sent: int, most: int) -> Message | None:
        """Return what carries the next behind so many that are `sent`, at most so many; None for a single one."""
        together = self._together(batch, islice(self._rest, sent, sent + most)) if batch.is_possible else []
        return batch.compose(together) if len(together) > 1 else None

    def _together(self, batch: Batch, executions: Iterable[Execution]) -> list[Execution]:
        """Return those of the first that may travel in one message."""
        taken: list[Execution] = []
        chars = 0
        for execution in executions:
            migration = execution.migration
            chars += batch.chars(migration)
            is_big = migration.path is not None or chars > MOST_CHARS
            if is_big or not migration.transactional or self._record.obstacle(migration):
                break
            try:
                execution.look()
            except Failure:
                break
            taken.append(execution)
        return taken

    def _alone(self, conn: Connection, frame: Frame, problem: Exception | None = None) -> None:
        """Apply the next by itself; where that was tried, among others, `problem` is what came of it."""
        execution = self._rest[0]
        migration = execution.migration
        if obstacle := self._record.obstacle(migration):
            self._record.fail(migration, Failure(obstacle))
        else:
            self._record.sent = [migration]
            if not problem:
                self._follow(execution)
            self._attempt(conn, frame, execution, problem)
            self._record.sent = []
        self._rest.popleft()

    def _attempt(self, conn: Connection, frame: Frame, execution: Execution, problem: Exception | None) -> None:
        try:
            attempt(
                conn,
                execution,
                frame,
                attempts=self._attempts,
                lock_wait_timeout=self._lock_wait_timeout,
                first=problem,
            )
        except AlreadyApplied:
            self._record.skip(execution.migration)
        except Failure as failure:
            self._record.fail(execution.migration, failure)
        else:
            self._applied(execution)

    def _applied(self, execution: Execution) -> None:
        self._record.applied(execution.migration, durable=execution.durable, duration_ms=execution.duration_ms)

    def _follow(self, execution: Execution) -> None:
        self._watcher.watch(execution.migration.name, execution.course)
        place = {"number": self._pending - len(self._rest) + 1, "pending": self._pending}
        self._record.begin(execution.migration, place)
