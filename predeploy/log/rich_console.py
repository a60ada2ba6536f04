"""Terminal log drawn with rich: coloured rows, a live status line for the running migration, and a final table."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any, TextIO

import rich.console
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from predeploy.log.console import Console, duration, escape

_MAX_ROWS = 40  # in the outcome table; a longer table omits applied migrations
_OUTCOMES = {f"migration.{word.replace(' ', '_')}": word for word in ("applied", "skipped", "failed", "not run")}
_STYLES = {"warning": "yellow", "error": "bold red", "applied": "green", "failed": "bold red"}
_STYLES |= {"not run": "yellow", "interrupted": "red", "pending": "yellow", "changed": "yellow", "missing": "red"}
_PROGRESS = {"statement": "statement {}", "statement_at_least": "statement {} or later", "statements": " of {}"}
_PROGRESS |= {"command": ", {}", "line": ", line {}", "operation": ", {}", "phase": ": {}", "percent": ", {:g} %"}
_PROGRESS |= {"tuples_done": ", {} rows"}


class RichConsole(Console):
    """Shows the lines of `Console` in colour, plus a live status line and a final table of outcomes."""

    def __init__(self, stream: TextIO, *args: Any, **kwargs: Any) -> None:
        super().__init__(stream, *args, **kwargs)
        self._running, self._since, self._place, self._progress = "", 0.0, "", ""
        self._rows: dict[str, tuple[str, str]] = {}
        self._rich = rich.console.Console(file=stream, markup=False, highlight=False, emoji=False)
        self._live = Live(
            console=self._rich,
            get_renderable=self._line,
            refresh_per_second=10,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _show(self, record: logging.LogRecord, fields: dict[str, Any]) -> None:
        event, name = fields.get("event", ""), fields.get("migration", "")
        if event == "migration.started":
            self._running, self._since, self._progress = name, time.monotonic(), ""
            self._place = f"{fields['number']} of {fields['pending']}" if "number" in fields else ""
            self._live.start(
                refresh=True
            )  # draw before the refresh thread starts, so that the next refresh erases only this line
        elif event == "migration.progress":
            self._progress, self._since = _describe(fields), time.monotonic() - fields["elapsed_s"]
        elif (outcome := _OUTCOMES.get(event)) and not self._brief:
            self._running = "" if name == self._running else self._running
            self._rows[name] = (outcome, duration(fields["duration_ms"]) if "duration_ms" in fields else "")
        elif event == "run.finished":
            self._end()
        if event == "migration.status":
            self._rows[name] = (fields["state"], fields.get("applied_at", ""))
        elif self._is_wanted(record, fields):
            self._rich.print(self._row(record, fields))

    def _line(self) -> Text:
        name, elapsed = self._running, duration((time.monotonic() - self._since) * 1000)
        text = f"{elapsed:>9} {name}  {self._place}  {self._progress}" if name else ""
        return Text(escape(text), no_wrap=True, overflow="crop")

    def _end(self) -> None:
        if self._running:
            self._rows[self._running], self._running = ("interrupted", ""), ""
        with suppress(Exception):  # a signal may have interrupted start()
            self._live.stop()
        headings = ("state", "applied") if self._brief else ("outcome", "duration")
        table = Table("migration", *headings, box=box.SIMPLE_HEAD, header_style="dim")
        for name, (word, note) in self._rows.items():
            if self._brief or len(self._rows) <= _MAX_ROWS or word != "applied":
                table.add_row(Text(escape(name), overflow="fold"), Text(word, _STYLES.get(word, "")), Text(note))
        if table.row_count and self._min_level <= logging.INFO:
            self._rich.print(table)

    def _row(self, record: logging.LogRecord, fields: dict[str, Any]) -> Table:
        *head, message = self._columns(record, fields)
        word = _OUTCOMES.get(fields.get("event", ""), record.levelname.lower())
        style = _STYLES.get({0: "applied", 10: "pending"}.get(fields.get("exit_code", -1), word), "")
        text = Text(message, style if self._brief or "exit_code" in fields else "", overflow="fold")
        row, indent = Table.grid(padding=(0, 1)), [""] * len(head)
        row.add_row(*map(Text, head, ("dim", style)), text)
        for line in self._details(record, fields, message):
            row.add_row(*indent, Text(line, overflow="fold"))
        for line in self._source_line(record):
            row.add_row(*indent, Text(line, no_wrap=True, overflow="crop"))
        return row


def _describe(progress: dict[str, Any]) -> str:
    """Describe a migration's progress from the fields of `migration.progress`."""
    text = "".join(template.format(progress[key]) for key, template in _PROGRESS.items() if key in progress)
    if waits := progress.get("waiting_for"):
        text += f", waiting for {waits['mode']} on {waits['relation'] or waits['type']}"
    for b in progress.get("blocked_by", ()):
        facts = f"pid {b['pid']}, {b['state'] or 'state hidden'}, open for {b['transaction_age_s'] or 0:.0f} s"
        who = f"{b['application_name'] or 'a session'} ({facts})" if b["pid"] else "a prepared transaction"
        text += f", blocked by {who}"
    return text.strip(":, ")
