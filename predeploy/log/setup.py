"""Log setup: JSON lines or plain text on stdout, with secrets masked in every record."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from predeploy.redaction.scrubber import Scrubber

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """Send the `predeploy` log to `stream`, by default stdout, as `json`, `text` or `auto` (text on a terminal).

    The text format takes the terminal type from `environ`, and is `brief` for commands other than migrate. Records from
    other libraries and Python warnings are dropped, because they may contain SQL or connection strings. Return the
    scrubber, so that secrets found later can be added.
    """
    stream = stream or sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  stdout is None if it was closed at startup
    as_text = style == "text" or (style == "auto" and stream.isatty())
    if isinstance(stream, io.TextIOWrapper):  # escape what cannot be encoded; otherwise the line would be lost
        own = as_text and stream.isatty()  # keep the terminal's encoding
        stream.reconfigure(encoding=stream.encoding if own else "utf-8", errors="backslashreplace")
    scrubber = Scrubber()

    def text_handler() -> logging.Handler:
        from predeploy.log.console import Console

        kind = Console
        if stream.isatty() and (environ or {}).get("TERM", "dumb") not in {"", "dumb", "unknown"}:
            with suppress(ImportError):
                from predeploy.log.rich_console import RichConsole

                kind = RichConsole
        return kind(stream, scrubber, level=LEVELS[level], brief=brief)

    def json_handler() -> logging.Handler:
        from predeploy.log.json_lines import JsonLines

        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonLines(scrubber))
        return handler

    log = logging.getLogger(LOGGER_NAME)
    log.handlers[:] = [_LazyHandler(text_handler if as_text else json_handler)]
    log.setLevel(logging.DEBUG if as_text else LEVELS[level])  # the live status line needs `migration.started`
    log.propagate = False
    logging.lastResort = None
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    return scrubber


class _LazyHandler(logging.Handler):
    """Replaces itself with the real handler on the first record, so that the imports happen only then."""

    def __init__(self, make: Callable[[], logging.Handler]) -> None:
        super().__init__()
        self._make = make

    def emit(self, record: logging.LogRecord) -> None:
        handler = self._make()
        log = logging.getLogger(LOGGER_NAME)
        log.handlers[:] = [handler if other is self else other for other in log.handlers]
        handler.handle(record)
