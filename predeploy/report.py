"""The outcome of a run, kept consistent across the summary line, the termination message and the exit code."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from predeploy.errors import CRASHED, EXIT_CODES, INTERRUPTED
from predeploy.migrations.migration import MigrationResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.redaction.scrubber import Scrubber

log = logging.getLogger(__name__)

TERMINATION_MESSAGE_BYTES = 4096  # Kubernetes keeps no more than this
_MAX_SUMMARY_BYTES = 3072  # limits the JSON summary, to leave room for a sentence
_MAX_NAMES = 10
_MAX_ERROR_CHARS = 600  # per migration error, to leave room for the next one
# Compiled on demand: most runs succeed and write no termination message.
_PLACE = r" \([^()]{1,120}\)\Z"  # at the end of an error: SQLSTATE, line, column
_CONTROLS = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"


class Report:
    """Holds the outcome until it is written, no matter where the run ends.

    `started` is the start of the run as a `time.monotonic()` value.
    """

    def __init__(self, started: float, scrubber: Scrubber) -> None:
        self.result = MigrationResult()
        self.scrubber = scrubber
        self.termination_log: str | None = None
        self._started = started
        self._exit_code = CRASHED
        self._message = "Interrupted during startup"
        self._is_about_files = False
        self._fields: dict[str, Any] = {}
        self._written = threading.Lock()
        self._interrupted: Callable[[], tuple[str, str] | None] = lambda: None

    def follow(self, result: MigrationResult, interrupted: Callable[[], tuple[str, str] | None]) -> None:
        """Report on `result`; `interrupted` returns the migration that a signal interrupted and its outcome, if any."""
        self.result = result
        self._interrupted = interrupted

    def set_outcome(self, exit_code: int, message: str | None = None, **fields: Any) -> None:
        """Set the outcome, unless it was already written. The default message summarizes the migrations."""
        if self._written.locked():
            return
        self._exit_code = exit_code
        self._message = message or _sentence(self.result, _names(self.result))
        self._is_about_files = not message
        self._fields = fields

    def set_interrupted(self, exit_code: int, signal: str) -> None:
        """Set the outcome for a run that was interrupted by a signal."""
        message = f"Interrupted by {signal}"
        if not (interrupted := self._interrupted()):
            self.set_outcome(exit_code, message)
            return
        migration, fate = interrupted
        self.set_outcome(exit_code, f"{message} while applying {migration}{fate}", migration=migration)

    def set_crashed(self, error: BaseException) -> None:
        """Log an unexpected error with its traceback, but not psycopg's messages, which may contain rows and SQL."""
        from predeploy.redaction.server_message import redact_text  # only needed on failure

        text = self.scrubber.scrub(str(error))  # before redact_text, which may mask only part of a secret
        by_psycopg = any(kind.__module__.startswith("psycopg") for kind in type(error).__mro__)
        what = type(error).__name__ if by_psycopg else f"{type(error).__name__}: {redact_text(text)}"
        frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        log.error("Internal error: %s", what, extra={"event": "run.crashed", "traceback": frames})
        report_it = "This is a bug in pg-predeploy; please report it with the traceback above"
        self.set_outcome(CRASHED, f"Internal error: {what}. {report_it}")

    def write(self) -> int:
        """Write the `run.finished` line, which is always last, and the termination message; return the exit code.

        Only the first call writes: after a signal, the forced exit may happen before the regular cleanup ends.
        """
        if not self._written.acquire(blocking=False):
            return self._exit_code
        summary: dict[str, Any] = {
            "outcome": EXIT_CODES[self._exit_code].outcome if self._exit_code in EXIT_CODES else INTERRUPTED,
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
        # Bypass the log level: this line is written at every MIGRATE_LOG_LEVEL.
        log.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (self._message,), None, extra=extra))
        return self._exit_code

    def _write_termination_message(self, path: str, summary: dict[str, Any]) -> None:
        """Write one sentence on one line, then the summary as JSON, at most 4096 bytes in total.

        The JSON is always valid: fields that make it too long are omitted. A truncated sentence ends with an ellipsis.
        """
        ending = b"\n" + self._summary_as_json(summary)
        sentence = _cut(self._explain(), TERMINATION_MESSAGE_BYTES - len(ending))
        try:
            with open(path, "wb") as file:
                file.write(sentence + ending)
        except OSError as error:
            log.warning(
                "Could not write the termination message: %s", error.strerror, extra={"event": "report.unwritten"}
            )

    def _summary_as_json(self, summary: dict[str, Any]) -> bytes:
        fields = {key: json.dumps(value) for key, value in self.scrubber.scrub_fields(summary).items()}
        while sum(len(key) + len(text) + 6 for key, text in fields.items()) > _MAX_SUMMARY_BYTES:
            del fields[max(fields, key=lambda key: len(fields[key]))]
        return ("{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}").encode()

    def _explain(self) -> str:
        """Return the run's summary as text, followed by the failed migrations and their errors as far as they fit."""
        failures = self.result.errors
        text = _sentence(self.result) if self._is_about_files else self._message
        if failures:
            text = f"{text}: " if self._is_about_files else f"{text.rstrip('.')}. Earlier failures: "
        for number, failure in enumerate(failures):
            if len(text) > TERMINATION_MESSAGE_BYTES:
                break
            text += ("; " if number else "") + f"{failure.name}: {self._shortened(failure.error)}"
        return self._in_one_line(text)

    def _shortened(self, error: str) -> str:
        error = self._in_one_line(error)
        if len(error) <= _MAX_ERROR_CHARS:
            return error
        place = re.search(_PLACE, error)
        return f"{error[:_MAX_ERROR_CHARS]}…{place[0] if place else ''}"

    def _in_one_line(self, text: str) -> str:
        """Collapse whitespace and control characters into single spaces. Mask secrets before and after that."""
        scrubbed: str = self.scrubber.scrub(" ".join(re.sub(_CONTROLS, " ", self.scrubber.scrub(text)).split()))
        return scrubbed


def _cut(text: str, room: int) -> bytes:
    """Encode the text, truncated to `room` bytes."""
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
    return f" ({', '.join(names[:_MAX_NAMES])}{', ...' if len(names) > _MAX_NAMES else ''})"


def _sentence(result: MigrationResult, names: str = "") -> str:
    if result.errors:
        rest = f", {len(result.not_run)} not run" if result.not_run else ""
        counts = f"{len(result.applied)} applied, {len(result.skipped)} skipped{rest}"
        return f"{len(result.errors)} failed{names}, {counts}"
    skipped = len(result.skipped)
    if applied := len(result.applied):
        rest = f"; {skipped} {'was' if skipped == 1 else 'were'} already applied" if skipped else ""
        return f"Applied {applied} migration{'' if applied == 1 else 's'}{rest}"
    return f"No pending migrations ({skipped} already applied)" if skipped else "No migrations found"
