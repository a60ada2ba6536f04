"""Plain-text log for people, used for files, and for terminals if rich is not installed."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from predeploy.redaction.scrubber import Scrubber

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "taskName", "excerpt"}
_FOR_PROGRAMS = {"event", "code", "reason", "outcome", "severity", "sqlstate"}
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CHARS_BEFORE, _CHARS = 40, 56  # of the failed line: characters shown before the column, and in total


class Console(logging.StreamHandler[TextIO]):
    """Writes each record on one line, with the details of a warning or error indented below it; times are in UTC.

    A `brief` log omits timestamps, levels and opening lines. Records that cannot be written are dropped.
    """

    def __init__(self, stream: TextIO, scrubber: Scrubber, *, level: int, brief: bool) -> None:
        super().__init__(stream)
        self._scrubber, self._min_level, self._brief = scrubber, level, brief

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record and its fields, with secrets masked."""
        try:
            fields = {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
            if (at := fields.get("applied_at", "")).endswith("+00:00"):  # otherwise it is no time, such as infinity
                fields["applied_at"] = f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%SZ}"
            self._show(record, self._scrubber.scrub_fields(fields))
        except Exception:
            self.handleError(record)

    def _show(self, record: logging.LogRecord, fields: dict[str, Any]) -> None:
        if self._is_wanted(record, fields):
            *head, message = self._columns(record, fields)
            lines = [" ".join([*head, message]), *self._details(record, fields, message), *self._source_line(record)]
            self.stream.write("\n".join(lines).replace("\n", "\n    ") + "\n")
            self.flush()

    def _is_wanted(self, record: logging.LogRecord, fields: dict[str, Any]) -> bool:
        is_opening = self._brief and fields.get("event") in {"run.started", "postgres.ready"}
        return fields.get("event") == "run.finished" or (record.levelno >= self._min_level and not is_opening)

    def _columns(self, record: logging.LogRecord, fields: dict[str, Any]) -> list[str]:
        """Return the columns of a line: time, level and message, or only the message in a brief log."""
        message, name = escape(self._scrubber.scrub(record.getMessage())), escape(str(fields.get("migration", "")))
        message = message if name in message else f"{name}: {message}"
        if self._brief:
            return [f"{message}  {fields.get('applied_at', '')}".rstrip()]
        notes = [f"exit code {fields['exit_code']}"] if fields.get("exit_code") else []
        notes += [duration(fields["duration_ms"])] if "duration_ms" in fields else []
        moment = datetime.fromtimestamp(record.created, UTC)
        time = f"{moment:%H:%M:%S}" if self.stream.isatty() else moment.isoformat(timespec="milliseconds")[:-6]
        return [f"{time}Z", f"{record.levelname.lower():<7}", message + (f" ({', '.join(notes)})" if notes else "")]

    def _details(self, record: logging.LogRecord, fields: dict[str, Any], message: str) -> list[str]:
        """Return a warning's or error's text fields, except those that the message already contains."""
        lines = []
        for key, value in fields.items() if record.levelno >= logging.WARNING else ():
            for item in value if isinstance(value, list) else [value]:
                text = escape(item) if isinstance(item, str) and key not in _FOR_PROGRAMS else ""
                lines += [f"{key.replace('_', ' ')}: {text}"] if text not in message else []
        return lines

    def _source_line(self, record: logging.LogRecord) -> list[str]:
        """Return the failed line with a caret below the column, or an empty list if the output is not a terminal."""
        if not (excerpt := getattr(record, "excerpt", None)) or not self.stream.isatty():
            return []
        number, text, column = excerpt.read()
        line = escape(self._scrubber.scrub_line(text))
        at = min(len(escape(self._scrubber.scrub_line(text[: (column or 1) - 1]))), len(line))
        start = max(at - _CHARS_BEFORE, 0)
        before = f"{number} | {'...' if start else ''}{line[start:at]}"
        after = line[at : start + _CHARS] + ("..." if len(line) > start + _CHARS else "")
        caret = " " * sum(2 if east_asian_width(sign) in "WF" else 1 for sign in before) + "^"
        return [before + after, caret] if column else [before + after]


def escape(text: str) -> str:
    """Expand tabs to spaces, and escape characters that could move the cursor or reorder the text."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text.replace("\t", "    "))


def duration(milliseconds: float) -> str:
    """Format a duration with a suitable unit."""
    seconds = milliseconds / 1000
    short = f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{seconds:.1f} s"
    return short if seconds < 60 else str(timedelta(seconds=round(seconds)))
