"""Apply the pending migrations in order: small ones are batched into messages, all others run one at a time."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from predeploy.apply.batch import MAX_MESSAGE_CHARS, BatchInterrupted, BatchNotParsed
from predeploy.apply.refused_claim import AlreadyApplied, ClaimRefused, LockUnavailable
from predeploy.connection.session import recover
from predeploy.lock.advisory_lock import wait_until_free
from predeploy.migrations.migration import MigrationFailure
from predeploy.signals import deferred

if TYPE_CHECKING:
    from collections.abc import Iterable

    from predeploy.apply.batch import Batch, BatchMessage
    from predeploy.apply.executor import Execution
    from predeploy.apply.run_options import RunOptions
    from predeploy.apply.run_state import RunState
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import SessionProfile
    from predeploy.monitor.watcher import Watcher

log = logging.getLogger(__name__)

RETRYABLE = {"55P03", "40P01", "40001"}  # lock not available, deadlock detected, serialization failure
_MAX_DELAY_S = 5.0


class SessionOutdated(Exception):
    """A migration has stored other settings for new sessions, so the next one needs a new session."""


class ApplyLoop:
    """Applies migrations in order on one connection and records each outcome in `state`."""

    def __init__(
        self,
        conn: Connection,
        profile: SessionProfile,
        batch: Batch,
        executions: Iterable[Execution],
        state: RunState,
        watcher: Watcher,
        options: RunOptions,
    ) -> None:
        self._conn = conn
        self._profile = profile
        self._batch = batch
        self._rest = deque(executions)
        self._pending = len(self._rest)
        self._state = state
        self._watcher = watcher
        self._options = options
        self._composed: BatchMessage | None = None  # the next message, composed during the current one
        self._shared: BatchMessage | None = None  # the current message, if it contains several migrations
        self._may_have_changed: Execution | None = None  # the last migration that may have stored settings
        self._alone = 0  # how many of the next migrations to run one at a time

    def apply(self) -> None:
        """Apply all migrations. Raise a psycopg error if the connection is lost, or `SessionOutdated`."""
        while self._rest and not self._is_stopped():
            message, self._composed = self._composed or self._take_batch(), None
            self._shared = message
            if not message:
                self._apply_one()
                continue
            self._state.in_flight = [execution.migration for execution in message.executions]
            compose_next = partial(self._compose_next, len(message.executions))
            try:
                for execution in self._batch.run(message, self._start, compose_next):
                    self._mark_applied(execution)
                continue
            except BatchNotParsed:
                self._alone = len(message.executions)
            except BatchInterrupted:
                pass
            except (ClaimRefused, MigrationFailure) as outcome:
                self._apply_one(outcome)
            self._composed = None  # the remaining migrations of this message must run first
        for execution in self._rest:
            self._state.mark_not_run(execution.migration)
        self._check_session()

    def notice_source(self) -> tuple[str | None, str]:
        """Return the name of the migration that raised a notice, and the SQL that the notice may quote.

        The server parses a whole message before it runs any statement. A notice during parsing may come from any
        migration in the message, so the name is None.
        """
        if not self._rest or not self._state.running:
            return None, ""
        if self._shared and not self._shared.message.started:
            return None, "\n".join(migration.sql for migration in self._state.in_flight)
        migration, chunk = self._rest[0].migration, self._rest[0].counter.chunk
        return migration.name, chunk.text if migration.is_large and chunk else migration.sql

    def _check_session(self) -> None:
        """Raise `SessionOutdated`, or warn if a new connection through the pooler may get an old session."""
        if not self._may_have_changed or self._may_have_changed.is_session_current():
            return
        if self._profile.renewable:
            raise SessionOutdated
        log.warning(
            "Settings for new sessions have changed (ALTER ROLE or ALTER DATABASE); "
            "sessions that the pooler keeps open do not have them until the pooler reconnects",
            extra={"event": "session.outdated"},
        )

    def _is_stopped(self) -> bool:
        return self._options.stop_on_error and bool(self._state.result.errors)

    def _compose_next(self, sent: int) -> None:
        self._composed = self._take_batch(sent)

    def _take_batch(self, skip: int = 0) -> BatchMessage | None:
        """Batch the migrations after the first `skip` into a message; return None if fewer than two can be batched."""
        if self._alone or not self._batch.is_possible:
            return None
        taken: list[Execution] = []
        chars = 0
        for execution in islice(self._rest, skip, None):
            migration = execution.migration
            chars += self._batch.chars(migration)
            is_small = not migration.is_large and chars <= MAX_MESSAGE_CHARS
            if not is_small or not migration.transactional or self._state.refusal(migration):
                break
            try:
                execution.load()
            except MigrationFailure:
                break
            taken.append(execution)
        return self._batch.compose(taken) if len(taken) > 1 else None

    def _apply_one(self, outcome: Exception | None = None) -> None:
        """Apply the next migration on its own; `outcome` is its result in a shared message, or None if not run yet."""
        execution = self._rest[0]
        migration = execution.migration
        self._alone = max(self._alone - 1, 0)
        if refusal := self._state.refusal(migration):
            self._rest.popleft()
            self._state.mark_failed(migration, refusal)
            return
        self._state.in_flight = [migration]
        if not outcome:
            self._start(execution)
        try:
            self._run_with_retries(execution, outcome)
        except AlreadyApplied:
            self._rest.popleft()
            self._state.mark_skipped(migration)
        except MigrationFailure as failure:
            self._rest.popleft()
            self._state.mark_failed(migration, failure)
        else:
            self._mark_applied(execution)
        self._state.in_flight = []

    def _run_with_retries(self, execution: Execution, outcome: Exception | None) -> None:
        """Run a migration; retry on a lock timeout, a deadlock or a serialization failure, up to `attempts` attempts.

        Raise the last attempt's `MigrationFailure`, or `AlreadyApplied`. Raise `LockTimeout` if waiting for another
        runner's lock takes longer than `lock_wait_timeout` in total. In every case, the session is reset first.
        """
        attempt = 1
        deadline: float | None = None
        while True:
            try:
                if outcome:
                    ended, outcome = outcome, None
                    raise ended
                execution.run()
            except ClaimRefused as refused:
                recover(self._conn, self._profile)
                outcome = execution.explain(refused)
            except LockUnavailable:
                recover(self._conn, self._profile)
                if self._profile.renewable and not execution.is_session_current():
                    self._state.in_flight = []
                    raise SessionOutdated from None
                deadline = deadline or time.monotonic() + self._options.lock_wait_timeout
                wait_until_free(self._conn, timeout=max(deadline - time.monotonic(), 0))
            except AlreadyApplied:
                recover(self._conn, self._profile)
                raise
            except MigrationFailure as failure:
                recover(self._conn, self._profile)
                retryable = failure.sqlstate in RETRYABLE and execution.migration.transactional
                if not retryable or attempt == self._options.attempts:
                    raise
                self._wait_before_retry(execution.migration.name, failure, attempt)
                attempt += 1
            else:
                return

    def _wait_before_retry(self, name: str, failure: MigrationFailure, attempt: int) -> None:
        pause = random.uniform(0.5, 1.0) * min(0.1 * 2**attempt, _MAX_DELAY_S)  # noqa: S311  jitter
        error = {key: value for key, value in failure.fields.items() if key in {"sqlstate", "condition"}}
        fields = {"migration": name, **error, "attempt": attempt, "attempts": self._options.attempts}
        fields |= {"event": "migration.retrying", "pause_s": round(pause, 2)}
        log.warning(
            "Retrying %s in %.1f s (attempt %s of %s): %s",
            name,
            pause,
            attempt + 1,
            self._options.attempts,
            failure,
            extra=fields,
        )
        time.sleep(pause)

    def _mark_applied(self, execution: Execution) -> None:
        with deferred():  # a signal between these two steps would corrupt the queue or the log
            self._rest.popleft()
            self._state.mark_applied(execution.migration, duration_ms=execution.duration_ms)
        if execution.may_store_settings:
            self._may_have_changed = execution

    def _start(self, execution: Execution) -> None:
        self._watcher.watch(execution.migration.name, execution.counter)
        place = {"number": self._pending - len(self._rest) + 1, "pending": self._pending}
        self._state.mark_started(execution.migration, place)
