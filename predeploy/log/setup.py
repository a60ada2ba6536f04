"""The log: JSON lines on stdout, or rows for people; scrubbed of secrets where every record passes."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

from predeploy.redaction.scrubber import Scrubber

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LOGGER_NAME = "predeploy"


def open_log(
    *,
    level: str = "info",
    style: str = "auto",
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
    brief: bool = False,
) -> Scrubber:
    """Send what `predeploy` logs to `stream` (stdout), as `json`, `text`, or `auto`: text on a terminal.

    A text asks `environ` what the terminal can show, and is `brief` for a command that only answers. Everything else
    stays silent: other libraries' records and Python's warnings are not written by us and may hold SQL or connection
    strings. Return the scrubber, to be told of secrets as they become known.
    """
    stream = stream or sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  stdout was closed before we began
    as_text = style == "text" or (style == "auto" and stream.isatty())
    if isinstance(stream, io.TextIOWrapper):  # a line that the encoding cannot hold would be lost
        own = as_text and stream.isatty()  # a terminal's is what it can show
        stream.reconfigure(encoding=stream.encoding if own else "utf-8", errors="backslashreplace")
    scrubber = Scrubber()
    handler: logging.Handler
    if as_text:
        from predeploy.log.console import Console  # a run that logs JSON does not pay for it

        handler = Console(stream, scrubber, environ or {}, level=LEVELS[level], brief=brief)
    else:
        handler = _JsonHandler(stream, scrubber)
    log = logging.getLogger(LOGGER_NAME)
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if as_text else LEVELS[level])  # the live line wants to know which file runs
    log.propagate = False
    logging.lastResort = None
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    return scrubber


class _JsonHandler(logging.StreamHandler[TextIO]):
    """Writes JSON; what that takes is loaded for the first line, by when others may be at work."""

    def __init__(self, stream: TextIO, scrubber: Scrubber) -> None:
        super().__init__(stream)
        self._scrubber = scrubber

    def format(self, record: logging.LogRecord) -> str:
        if not self.formatter:
            from predeploy.log.json_lines import JsonLines

            self.setFormatter(JsonLines(self._scrubber))
        return super().format(record)
