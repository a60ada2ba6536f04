"""Log for programs: one JSON object per line, with secrets masked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    import logging

    from predeploy.redaction.scrubber import Scrubber


class JsonLines(JsonFormatter):
    """Formats records as JSON, with secrets masked by `scrubber`."""

    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__(json_ensure_ascii=False, reserved_attrs=[*RESERVED_ATTRS, "excerpt"])
        self.process_log_record = scrubber.scrub_fields  # type: ignore[assignment, method-assign]  # masks every secret

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the fields common to all lines, then the record's own fields."""
        log_data.update(timestamp=_timestamp(record), level=record.levelname.lower(), message=record.message)
        log_data["event"] = "log"
        super().add_fields(log_data, record, message_dict)


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
