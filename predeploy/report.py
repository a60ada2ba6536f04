"""What a run ends with: the last log line, the termination message and the exit code, all saying the same."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from predeploy.migrations import MigrationResult

if TYPE_CHECKING:
    from pathlib import Path

    from predeploy.scrubber import Scrubber

log = logging.getLogger(__name__)

TERMINATION_MESSAGE_BYTES = 4096  # what Kubernetes keeps of it
CRASHED = 70
_MOST_NAMES = 10
_OUTCOMES = {
    0: "succeeded",
    1: "failed",
    2: "misconfigured",
    3: "unreachable",
    4: "locked",
    5: "refused",
    6: "connection_lost",
    10: "pending",
    CRASHED: "crashed",
}


class Report:
    """Collects what is known, so that the ending is told truthfully wherever the run ends; `started` is monotonic."""

    def __init__(self, started: float, scrubber: Scrubber) -> None:
        self.result = MigrationResult()
        self.scrubber = scrubber
        self.termination_log: Path | None = None
        self._started = started
        self._exit_code = CRASHED
        self._message = "Ended before it began."
        self._fields: dict[str, Any] = {}
        self._unfinished = threading.Lock()

    def end(self, exit_code: int, message: str | None = None, **fields: Any) -> None:
        """Decide the ending; without a message it is a sentence about the files. Once `finish` has begun it stands."""
        if self._unfinished.locked():
            return
        self._exit_code = exit_code
        self._message = message or _sentence(self.result)
        self._fields = fields

    def crash(self, error: Exception) -> None:
        """Decide that this ending is a bug of ours, and log where it is; psycopg's texts may hold rows and SQL."""
        from predeploy.disclosure import disclose_words  # only where something fails

        by_psycopg = any(kind.__module__.startswith("psycopg") for kind in type(error).__mro__)
        what = type(error).__name__ if by_psycopg else f"{type(error).__name__}: {disclose_words(str(error))}"
        frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        log.error("A bug of ours: %s", what, extra={"event": "run.crashed", "traceback": frames})
        self.end(CRASHED, f"A bug of pg-predeploy: {what}. Please report it with the traceback above.")

    def finish(self) -> int:
        """Write `run.finished`, always the last line, and the termination message; return the exit code.

        Only the first call writes: after a signal the last resort may come while the ordinary way out is not done.
        """
        if not self._unfinished.acquire(blocking=False):
            return self._exit_code
        summary: dict[str, Any] = {
            "outcome": _OUTCOMES.get(self._exit_code, "interrupted"),
            "exit_code": self._exit_code,
            "applied": len(self.result.applied),
            "skipped": len(self.result.skipped),
            "failed": len(self.result.errors),
            "duration_ms": round((time.monotonic() - self._started) * 1000, 1),
            **({"not_run": len(self.result.not_run)} if self.result.not_run else {}),
            **self._fields,
        }
        if self.termination_log:
            self._write_termination_message(self.termination_log, summary)
        level = logging.INFO if self._exit_code == 0 else logging.ERROR
        extra = {"event": "run.finished", **summary}
        # Handled, not logged: whatever MIGRATE_LOG_LEVEL says, this line is written.
        log.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (self._message,), None, extra=extra))
        return self._exit_code

    def _write_termination_message(self, path: Path, summary: dict[str, Any]) -> None:
        """Write the sentence as one line and the summary as JSON, at most 4096 bytes of them."""
        ending = b"\n" + json.dumps(self.scrubber.scrub_fields(summary)).encode()
        sentence = " ".join(self.scrubber.scrub(self._message).split()).encode(errors="backslashreplace")
        room = TERMINATION_MESSAGE_BYTES - len(ending)
        try:
            path.write_bytes(sentence[:room].decode(errors="ignore").encode() + ending)
        except OSError as error:
            log.warning("No termination message: %s", error.strerror, extra={"event": "report.unwritten"})


def _sentence(result: MigrationResult) -> str:
    failed = [error.name for error in result.errors]
    if failed:
        names = ", ".join(failed[:_MOST_NAMES]) + (", ..." if len(failed) > _MOST_NAMES else "")
        rest = f", {len(result.not_run)} not run" if result.not_run else ""
        return f"{len(failed)} failed ({names}), {len(result.applied)} applied, {len(result.skipped)} skipped{rest}"
    if result.applied:
        return f"{len(result.applied)} applied, {len(result.skipped)} already there"
    return f"Nothing to do: {len(result.skipped)} already there"
