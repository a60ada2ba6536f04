"""What a run ends with: the last log line, the termination message and the exit code, all saying the same."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from predeploy.migrations.directory import MigrationResult

if TYPE_CHECKING:
    from predeploy.redaction.scrubber import Scrubber

log = logging.getLogger(__name__)

TERMINATION_MESSAGE_BYTES = 4096  # what Kubernetes keeps of it
CRASHED = 70
_SUMMARY_BYTES = 3072  # of the message at most, so that there is room for a sentence
_MOST_NAMES = 10
_ERROR_CHARS = 600  # of one file's, so that the next is told too
# Compiled by those who need them: most runs end well, and without a termination message.
_PLACE = r" \([^()]{1,120}\)\Z"  # that ends an error: SQLSTATE, line, column
_CONTROLS = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
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
        self.termination_log: str | None = None
        self._started = started
        self._exit_code = CRASHED
        self._message = "Ended before it began."
        self._is_sentence = False  # of ours about the files
        self._fields: dict[str, Any] = {}
        self._unfinished = threading.Lock()

    def end(self, exit_code: int, message: str | None = None, **fields: Any) -> None:
        """Decide the ending; without a message it is a sentence about the files. Once `finish` has begun it stands."""
        if self._unfinished.locked():
            return
        self._exit_code = exit_code
        self._message = message or _sentence(self.result, _names(self.result))
        self._is_sentence = not message
        self._fields = fields

    def crash(self, error: Exception) -> None:
        """Decide that this ending is a bug of ours, and log where it is; psycopg's texts may hold rows and SQL."""
        from predeploy.redaction.server_message import disclose_words  # only where something fails

        text = self.scrubber.scrub(str(error))  # whole, before a part of a secret is masked as one
        by_psycopg = any(kind.__module__.startswith("psycopg") for kind in type(error).__mro__)
        what = type(error).__name__ if by_psycopg else f"{type(error).__name__}: {disclose_words(text)}"
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
            **_first_failure(self.result),
            **self._fields,
        }
        if self.termination_log:
            self._write_termination_message(self.termination_log, summary)
        level = logging.INFO if self._exit_code == 0 else logging.ERROR
        extra = {"event": "run.finished", **summary}
        # Handled, not logged: whatever MIGRATE_LOG_LEVEL says, this line is written.
        log.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (self._message,), None, extra=extra))
        return self._exit_code

    def _write_termination_message(self, path: str, summary: dict[str, Any]) -> None:
        """Write a sentence as one line and the summary as JSON, at most 4096 bytes of them.

        The JSON is whole; what makes it too long is left out of it. The sentence ends with an ellipsis where it is cut.
        """
        ending = b"\n" + self._summary_as_json(summary)
        sentence = _cut(self._explain(), TERMINATION_MESSAGE_BYTES - len(ending))
        try:
            with open(path, "wb") as file:
                file.write(sentence + ending)
        except OSError as error:
            log.warning("No termination message: %s", error.strerror, extra={"event": "report.unwritten"})

    def _summary_as_json(self, summary: dict[str, Any]) -> bytes:
        fields = {key: json.dumps(value) for key, value in self.scrubber.scrub_fields(summary).items()}
        while sum(len(key) + len(text) + 6 for key, text in fields.items()) > _SUMMARY_BYTES:
            del fields[max(fields, key=lambda key: len(fields[key]))]
        return ("{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}").encode()

    def _explain(self) -> str:
        """Return the sentence and, as far as there may be room for them, which files failed and why."""
        failures = self.result.errors
        told = _sentence(self.result) if self._is_sentence else self._message
        if failures:
            told += ": " if self._is_sentence else " Failed before: "
        for number, failure in enumerate(failures):
            if len(told) > TERMINATION_MESSAGE_BYTES:
                break
            told += ("; " if number else "") + f"{failure.name}: {self._shortened(failure.error)}"
        return self._in_one_line(told)

    def _shortened(self, error: str) -> str:
        error = self._in_one_line(error)
        if len(error) <= _ERROR_CHARS:
            return error
        place = re.search(_PLACE, error)
        return f"{error[:_ERROR_CHARS]}…{place[0] if place else ''}"

    def _in_one_line(self, text: str) -> str:
        """Return it scrubbed, before and after white space and control characters have become single spaces."""
        scrubbed: str = self.scrubber.scrub(" ".join(re.sub(_CONTROLS, " ", self.scrubber.scrub(text)).split()))
        return scrubbed


def _cut(text: str, room: int) -> bytes:
    """Encode as many characters as there is room for."""
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= room:
        return encoded
    ellipsis = "…".encode()
    return encoded[: room - len(ellipsis)].decode(errors="ignore").encode() + ellipsis


def _first_failure(result: MigrationResult) -> dict[str, Any]:
    if not result.errors:
        return {}
    first = result.errors[0]
    return {"first_failure": {"migration": first.name, "sqlstate": first.sqlstate, "line": first.line}}


def _names(result: MigrationResult) -> str:
    names = [error.name for error in result.errors]
    return f" ({', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''})"


def _sentence(result: MigrationResult, names: str = "") -> str:
    if result.errors:
        rest = f", {len(result.not_run)} not run" if result.not_run else ""
        counts = f"{len(result.applied)} applied, {len(result.skipped)} skipped{rest}"
        return f"{len(result.errors)} failed{names}, {counts}"
    if result.applied:
        return f"{len(result.applied)} applied, {len(result.skipped)} already there"
    return f"Nothing to do: {len(result.skipped)} already there"
