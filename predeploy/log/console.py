"""The log for people: rows in columns, a live line for the file that runs, and a table at the end."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from predeploy.log.rows import Rows, duration
from predeploy.log.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.redaction.scrubber import Scrubber

_REDRAW_S = 0.1
_ERASE = "\r\x1b[K"
_MOST_ROWS = 40  # of the table at the end of a run, before the files that went well are only counted
_OUTCOMES = {
    "migration.applied": "applied",
    "migration.skipped": "skipped",
    "migration.failed": "failed",
    "migration.not_run": "not run",
}
_OPENING = {"run.started", "postgres.ready"}  # a command that only answers does without
_HOW_LONG = re.compile(r".* has run for [^;:,]* s\b[;:,]? ?", re.DOTALL)


@dataclass(slots=True)
class _Running:
    """The file that runs: since when (monotonic), and what was last told of it."""

    name: str
    since: float
    place: str
    told: str = ""


class Console(logging.StreamHandler[TextIO]):
    """Writes each record as a row, unless it is less than `level`.

    On a terminal the last line says what runs, redrawn ten times a second by a thread that begins with the first file;
    it is erased before each row, and after `run.finished` nothing is drawn. `brief`: an answer, without times. What
    cannot be written is forgotten, as the log does everywhere.
    """

    def __init__(
        self, stream: TextIO, scrubber: Scrubber, environ: Mapping[str, str], *, level: int, brief: bool
    ) -> None:
        super().__init__(stream)
        self._terminal = Terminal(stream, environ)
        self._rows = Rows(self._terminal, scrubber, brief=brief)
        self._least = level
        self._brief = brief
        self._running: _Running | None = None
        self._is_drawn = False
        self._ended = threading.Event()
        self._redrawer: threading.Thread | None = None
        self._outcomes: list[tuple[str, str, str]] = []
        self._states: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's row, in the live line's place."""
        try:
            lines = self._lines(record)
            if lines:
                before = _ERASE if self._is_drawn else ""
                self._is_drawn = False
                self.stream.write(before + "\n".join(lines) + "\n")
                self.flush()
        except Exception:
            self.handleError(record)

    def _lines(self, record: logging.LogRecord) -> list[str]:
        fields = self._rows.fields(record)
        event = str(fields.get("event", "log"))
        self._follow(event, fields, record)
        if event == "migration.status":
            self._states.append((str(fields["state"]), str(fields["migration"]), str(fields.get("applied_at", ""))))
            return []
        if event == "run.finished":
            self._ended.set()
            return [*self._table_of_states(), *self._table_of_outcomes(), *self._rows.row(record, fields)]
        if record.levelno < self._least or (self._brief and event in _OPENING):
            return []
        return self._rows.row(record, fields)

    def _follow(self, event: str, fields: dict[str, Any], record: logging.LogRecord) -> None:
        """Know which file runs, and what became of the others."""
        name = str(fields.get("migration", ""))
        running = self._running
        if event == "migration.started":
            place = f"{fields['number']} of {fields['pending']}" if "number" in fields else ""
            self._running = _Running(name, time.monotonic(), place)
            self._start_redrawing()
        elif event == "migration.progress" and running:
            running.told = _HOW_LONG.sub("", record.getMessage(), count=1)
        elif outcome := _OUTCOMES.get(event):
            took = fields.get("duration_ms")
            if running and running.name == name:
                took = (time.monotonic() - running.since) * 1000 if took is None else took
                self._running = None
            self._outcomes.append((outcome, name, duration(took)))
        elif event == "run.finished" and running:
            self._outcomes.append(("cut short", running.name, duration((time.monotonic() - running.since) * 1000)))
            self._running = None

    def _start_redrawing(self) -> None:
        if self._terminal.redraws and not self._redrawer:
            self._redrawer = threading.Thread(target=self._redraw, name="pg-predeploy-console", daemon=True)
            self._redrawer.start()

    def _redraw(self) -> None:
        frame = 0
        with suppress(Exception):  # the terminal has gone: nobody looks
            while not self._ended.wait(_REDRAW_S):
                frame += 1
                self.acquire()
                try:
                    self._draw(frame)
                finally:
                    self.release()

    def _draw(self, frame: int) -> None:
        running = self._running
        if self._ended.is_set() or not running or self._terminal.is_narrow:
            return
        told = "; ".join(filter(None, (running.place, running.told)))
        line = self._rows.live(frame, running.name, time.monotonic() - running.since, told)
        self._is_drawn = True
        self.stream.write(f"{_ERASE}{line}")
        self.stream.flush()

    def _table_of_outcomes(self) -> list[str]:
        if not self._outcomes or self._least > logging.INFO:
            return []
        signs, shown = self._terminal.signs, self._outcomes
        if len(shown) > _MOST_ROWS:
            shown = [outcome for outcome in shown if outcome[0] != "applied"][:_MOST_ROWS]
        marks = {"applied": (signs.ok, "green"), "skipped": (signs.info, "dim"), "not run": (signs.warning, "yellow")}
        rows = [(*marks.get(what, (signs.failed, "red")), name, what, took) for what, name, took in shown]
        lines = ["", *self._rows.table(("file", "outcome", "duration"), rows)]
        if more := len(self._outcomes) - len(shown):
            lines.append(f"  and {more} more")
        return [*lines, ""]

    def _table_of_states(self) -> list[str]:
        signs = self._terminal.signs
        marks = {
            "applied": (signs.ok, "green"),
            "pending": (signs.pending, "yellow"),
            "changed": (signs.warning, "yellow"),
            "missing": (signs.missing, "red"),
        }
        rows = [
            (*marks.get(state, (signs.info, "")), name, state, _in_utc(applied_at))
            for state, name, applied_at in self._states
        ]
        return self._rows.table(("file", "state", "applied, UTC"), rows) if rows else []


def _in_utc(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else ""
