"""The log: one JSON object a line on stdout, scrubbed of secrets where every record passes."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LOGGER_NAME = "predeploy"
MASK = "***"
_SHORTEST_SECRET = 4  # a shorter one would blacken half of every line
# A password like `postgres` or `failed` must not change what programs look for.
_QUOTING = re.compile(r"(\\+|['\"])")
_CONSTANTS = ("timestamp", "level", "event", "outcome", "reason", "state", "severity")


def open_log(*, level: str = "info", style: str = "auto", stream: TextIO | None = None) -> Scrubber:
    """Send what `predeploy` logs to `stream` (stdout), as `json`, `text`, or `auto`: text on a terminal.

    Everything else stays silent: other libraries' records and Python's warnings are not written by us and may
    hold SQL or connection strings. Return the scrubber, to be told of secrets as they become known.
    """
    stream = stream or sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  stdout was closed before we began
    if isinstance(stream, io.TextIOWrapper):  # whatever the locale says: a line that it cannot hold would be lost
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    as_text = style == "text" or (style == "auto" and stream.isatty())
    scrubber = Scrubber()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextLines(scrubber) if as_text else _JsonLines(scrubber))
    log = logging.getLogger(LOGGER_NAME)
    log.handlers[:] = [handler]
    log.setLevel(LEVELS[level])
    log.propagate = False
    logging.lastResort = None
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    return scrubber


class Scrubber:
    """Replaces every known secret in a text, the longest first."""

    def __init__(self) -> None:
        self._secrets: list[str] = []
        self._patterns: dict[str, re.Pattern[str]] = {}

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these from now on; what is shorter than four characters cannot be masked."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)}
        self._secrets = sorted(known, key=len, reverse=True)
        self._patterns = {secret: _however_quoted(secret) for secret in known if _QUOTING.search(secret)}

    def scrub_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return a line's fields with secrets masked in all but those that hold words of our own."""
        return {key: value if key in _CONSTANTS else self.scrub(value) for key, value in fields.items()}

    def scrub(self, value: Any) -> Any:
        """Return the value with secrets masked in it and in everything it holds; what is no JSON as a str."""
        if isinstance(value, str):
            for secret in self._secrets:
                pattern = self._patterns.get(secret)
                value = pattern.sub(MASK, value) if pattern else value.replace(secret, MASK)
            return value
        if isinstance(value, dict):
            return {key: self.scrub(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrub(item) for item in value]
        return value if value is None or isinstance(value, int | float) else self.scrub(str(value))


def _however_quoted(secret: str) -> re.Pattern[str]:
    """Match it however often it was quoted: repr() of a JSON text doubles what escaped the quotes."""
    pattern = ""
    for piece in _QUOTING.split(secret):
        if piece.startswith("\\"):
            pattern += r"\\+"
        else:
            pattern += rf"\\*{piece}" if piece in {"'", '"'} else re.escape(piece)
    return re.compile(pattern)


class _JsonLines(JsonFormatter):
    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__(json_ensure_ascii=False)
        self._scrubber = scrubber

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data.update(timestamp=_timestamp(record), level=record.levelname.lower(), message=record.message)
        log_data["event"] = "log"
        super().add_fields(log_data, record, message_dict)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return self._scrubber.scrub_fields(log_data)


class _TextLines(logging.Formatter):
    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__()
        self._scrubber = scrubber
        self._ordinary = {*vars(logging.makeLogRecord({})), "message", "event", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in self._ordinary}
        scrubbed = self._scrubber.scrub_fields(extra)  # before repr() escapes
        fields = [f"{key}={value}" for key, value in scrubbed.items()]
        text = " ".join([record.getMessage(), *fields])
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{_timestamp(record)} {record.levelname:<7} {self._scrubber.scrub(text)}"


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class Rhythm:
    """Decides when a wait is worth a line: at once, when what it waits for changes, then every `every` seconds.

    With `longest` that time doubles with each line about the same subject, up to so many seconds.
    """

    def __init__(self, every: float, longest: float | None = None) -> None:
        self._first = self._every = every
        self._longest = longest or every
        self._last: tuple[float, object] | None = None

    def due(self, subject: object) -> bool:
        """Tell whether a line about `subject` should be written now."""
        now = time.monotonic()
        if not self._last or self._last[1] != subject:
            self._every = self._first
        elif now - self._last[0] < self._every:
            return False
        else:
            self._every = min(2 * self._every, self._longest)
        self._last = (now, subject)
        return True
