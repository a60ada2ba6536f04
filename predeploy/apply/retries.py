"""How often one file is tried: again after what may pass by itself, and after another runner has had the lock."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from predeploy.apply.executor import AlreadyApplied, LockHeld
from predeploy.apply.failure import Failure
from predeploy.connection.session import recover
from predeploy.lock.advisory_lock import wait_until_free

if TYPE_CHECKING:
    from predeploy.apply.executor import Execution
    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Frame

log = logging.getLogger(__name__)

PASSING = {"55P03", "40P01", "40001"}  # lock not available, deadlock detected, serialization failure
_LONGEST_PAUSE_S = 5.0


def attempt(
    conn: Connection,
    execution: Execution,
    frame: Frame,
    *,
    attempts: int,
    lock_wait_timeout: float,
    first: Exception | None = None,
) -> None:
    """Run the file; where a lock timeout, a deadlock or a serialization failure ends it, up to `attempts` times.

    `first` is what the first time has ended with, where that was among other files. Raise the last `Failure`,
    `AlreadyApplied`, or `LockTimeout` when another runner has the lock for longer than `lock_wait_timeout` seconds in
    all; the session is clean then.
    """
    number = 1
    deadline: float | None = None
    while True:
        try:
            if first:
                ended, first = first, None
                raise ended
            execution.run()
        except LockHeld:
            recover(conn, frame)
            deadline = deadline or time.monotonic() + lock_wait_timeout
            wait_until_free(conn, timeout=max(deadline - time.monotonic(), 0))
        except AlreadyApplied:
            recover(conn, frame)
            raise
        except Failure as failure:
            recover(conn, frame)
            if number == attempts or not _may_pass(failure, execution):
                raise
            _pause(execution.migration.name, failure, number, attempts)
            number += 1
        else:
            return


def _may_pass(failure: Failure, execution: Execution) -> bool:
    return failure.sqlstate in PASSING and execution.migration.transactional


def _pause(name: str, failure: Failure, number: int, attempts: int) -> None:
    pause = random.uniform(0.5, 1.0) * min(0.1 * 2**number, _LONGEST_PAUSE_S)  # noqa: S311  jitter
    error = {key: value for key, value in failure.fields.items() if key in {"sqlstate", "condition"}}
    fields = {"migration": name, **error, "attempt": number, "attempts": attempts, "pause_s": round(pause, 2)}
    log.warning("Trying again: %s", failure.tell(name), extra={"event": "migration.retrying", **fields})
    time.sleep(pause)
