"""What a record of the log looks like to people: a row in columns, and beneath it what explains an error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from predeploy.log.terminal import columns_of, pad, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from predeploy.log.terminal import Terminal
    from predeploy.migrations.source_line import Excerpt
    from predeploy.redaction.scrubber import Scrubber

_ORDINARY = {*vars(logging.makeLogRecord({})), "message", "taskName"}
_IN_THE_ROW = {"event", "migration", "error", "sqlstate", "condition", "line", "column", "statement", "statements"}
_CONSTANTS = {"code", "reason", "outcome", "severity"}  # for programs
_NARROW = 60  # columns; a terminal with less shows no time
_NAME_COLUMNS = 20  # at least; it grows with the names
_TEXT_COLUMNS = 24  # beside a name at least, or the text goes beneath
_NEAR_CHARS = 500  # of an excerpt's line, on each side of its column


class Rows:
    """Lays out records for a terminal; everything is scrubbed before it is cut or coloured. `brief`: without times."""

    def __init__(self, terminal: Terminal, scrubber: Scrubber, *, brief: bool) -> None:
        self._terminal = terminal
        self._scrubber = scrubber
        self._brief = brief
        self._name_columns = _NAME_COLUMNS

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the record's fields, scrubbed, without its excerpt."""
        given = {k: v for k, v in vars(record).items() if k not in _ORDINARY and k != "excerpt" and v is not None}
        return self._scrubber.scrub_fields(given)

    def row(self, record: logging.LogRecord, fields: dict[str, Any]) -> list[str]:
        """Return the record's lines."""
        terminal, event, message = self._terminal, fields.get("event", "log"), self._scrub(record.getMessage())
        mark, style = self._mark(record.levelno, event, fields)
        time = self._time(record.created)
        head = f"{terminal.paint(time, 'dim')} " if time else ""
        indent = columns_of(time) + bool(time) + columns_of(mark) + 1
        name, text = str(fields.get("migration", "")), message
        if event == "migration.applied":
            text = f"applied {duration(fields.get('duration_ms')):>10}"
        elif event == "migration.planned":
            text = _kinds(fields)
        elif event == "migration.rehearsed":
            text = f"would work {duration(fields.get('duration_ms')):>10}"
        elif event == "migration.failed":
            text = f"failed: {fields.get('error', message)}"
        elif event == "run.started" and terminal.is_tty:
            text = f"{message}, on {_moment(record.created):%Y-%m-%d}, times in UTC"
        elif event == "run.finished":
            text = f"{message}{self._how(fields)}"
        elif name in message:
            name = ""
        lines = self._columns(name, text, indent, style if event in {"migration.failed", "run.finished"} else "")
        lines[0] = f"{head}{terminal.paint(mark, style)} {lines[0]}"
        return [*lines, *self._beneath(record, event, fields, message, indent)]

    def table(self, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
        """Return the lines of a table: a mark with its style, a name, and columns of which the last is flush right."""
        terminal, rows = self._terminal, list(rows)
        cells = [[plain(self._scrub(cell)) for cell in row[2:]] for row in rows]
        widths = [max(columns_of(row[n]) for row in [heading, *cells]) for n in range(len(heading))]
        if terminal.width is not None:
            widths[0] = min(widths[0], max(terminal.width - sum(widths[1:]) - 2 * len(widths), 8))

        def line(row: Sequence[str]) -> str:
            *first, last = [pad(terminal.fit(cell, width), width) for cell, width in zip(row, widths, strict=True)]
            return "  ".join([*first, " " * (widths[-1] - columns_of(last.strip())) + last.strip()]).rstrip()

        lines = [terminal.paint(f"  {line(heading)}", "dim")]
        lines += [
            f"{terminal.paint(mark, style)} {line(row)}" for (mark, style, *_), row in zip(rows, cells, strict=True)
        ]
        return lines

    def live(self, frame: int, name: str, elapsed_s: float, told: str) -> str:
        """Return the line for the file that runs: one that does not wrap."""
        terminal = self._terminal
        sign = terminal.signs.frames[frame % len(terminal.signs.frames)]
        room = (terminal.width or 80) - 3
        name = terminal.fit(plain(self._scrub(name)), max(room - 12, 8))
        rest = f"  {duration(elapsed_s * 1000, live=True)}" + (f"  {told}" if told else "")
        rest = plain(self._scrub(rest))
        left = room - columns_of(name)
        if columns_of(rest) > left:
            rest = f"  {terminal.wrap(rest.strip()[:300], left - 3)[0].rstrip()}{terminal.signs.ellipsis[:1]}"
        return f"{terminal.paint(sign, 'cyan')} {terminal.paint(name, 'bold')}{rest}"

    def _scrub(self, text: str) -> str:
        scrubbed: str = self._scrubber.scrub(text)
        return scrubbed

    def _time(self, created: float) -> str:
        width = self._terminal.width
        if self._brief or (width is not None and width < _NARROW):
            return ""
        moment = _moment(created)
        return f"{moment:%H:%M:%S}" if width is not None else f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"

    def _mark(self, level: int, event: str, fields: dict[str, Any]) -> tuple[str, str]:
        signs = self._terminal.signs
        if event == "migration.applied" or (event == "run.finished" and fields.get("exit_code") == 0):
            return signs.ok, "green"
        if fields.get("exit_code") == 10 and event == "run.finished":
            return signs.pending, "yellow"
        if level >= logging.ERROR:
            return signs.failed, "red"
        return (signs.warning, "yellow") if level >= logging.WARNING else (signs.info, "dim")

    def _how(self, fields: dict[str, Any]) -> str:
        """Return how the run ended, beside its sentence."""
        if self._brief:
            return ""
        code = fields.get("exit_code")
        return f" ({f'exit code {code}, ' if code else ''}{duration(fields.get('duration_ms'))})"

    def _columns(self, name: str, text: str, indent: int, style: str) -> list[str]:
        """Return the name in its column and the text in the next, or beneath it where there is no room beside."""
        terminal, width = self._terminal, self._terminal.width
        if not name:
            return self._indented(text, indent, style, first="")
        limit = None if width is None else max((width - indent) // 2, _NAME_COLUMNS)
        name = terminal.fit(plain(name), limit)
        self._name_columns = max(self._name_columns, columns_of(name))
        columns = self._name_columns if limit is None else min(self._name_columns, limit)
        column = pad(name, columns) + "  "
        if width is not None and width - indent - columns_of(column) < _TEXT_COLUMNS:
            return [terminal.paint(name, "bold"), *self._indented(text, indent, style)]
        return self._indented(text, indent + columns_of(column), style, first=terminal.paint(column, "bold"))

    def _indented(self, text: str, indent: int, style: str = "", first: str | None = None) -> list[str]:
        """Return the text, broken into lines, with so many columns before each of them; `first` before the first."""
        room = None if self._terminal.width is None else max(self._terminal.width - indent, 8)
        lines = [line for part in text.split("\n") for line in self._terminal.wrap(plain(part), room)]
        painted = [self._terminal.paint(line, style) for line in lines] or [""]
        before = " " * indent if first is None else first
        return [before + painted[0], *(" " * indent + line for line in painted[1:])]

    def _beneath(
        self, record: logging.LogRecord, event: str, fields: dict[str, Any], message: str, indent: int
    ) -> list[str]:
        lines: list[str] = []
        excerpt: Excerpt | None = getattr(record, "excerpt", None)
        if event == "migration.failed":
            lines += self._indented(_place(fields), indent, "dim")
        for lock in fields.get("locks", ()):
            lines += self._indented(f"{lock['mode']:<22}  {lock['relation']}", indent)
        if fields.get("unknown"):
            lines += self._indented("and what the text does not tell: rehearse to see", indent)
        if excerpt and self._terminal.is_tty:
            lines += self._excerpt(excerpt, indent)
        if record.levelno >= logging.WARNING:
            for key, value in fields.items():
                for text in _sentences(value) if key not in _IN_THE_ROW | _CONSTANTS else []:
                    if text not in message:
                        lines += self._indented(f"{key.replace('_', ' ')}: {text}", indent)
        if record.exc_info and record.exc_info[0]:
            lines += self._scrub(logging.Formatter().formatException(record.exc_info)).split("\n")
        return lines

    def _excerpt(self, excerpt: Excerpt, indent: int) -> list[str]:
        """Return the line with its number, and a caret under its column."""
        number, text, column = excerpt.read()
        line = self._scrubber.scrub_line(text)
        at = min(len(self._scrubber.scrub_line(text[: (column or 1) - 1])), len(line))
        before, after = plain(line[max(at - _NEAR_CHARS, 0) : at]), plain(line[at : at + _NEAR_CHARS])
        gutter = " " * indent + f"{number} "
        bar = self._terminal.signs.bar
        room = max((self._terminal.width or 80) - columns_of(gutter) - 3, 8)
        before = self._end_of(before, room * 2 // 3) if columns_of(before + after) > room else before
        if columns_of(before + after) > room:
            after = self._end_of(after[::-1], room - columns_of(before))[::-1]
        lines = [f"{self._terminal.paint(f'{gutter}{bar}', 'dim')} {before}{after}"]
        if column:
            caret = self._terminal.paint("^", "red", "bold")
            blank = " " * columns_of(gutter)
            lines.append(f"{self._terminal.paint(f'{blank}{bar}', 'dim')} {' ' * columns_of(before)}{caret}")
        return lines

    def _end_of(self, text: str, columns: int) -> str:
        """Return as much of the end as fits, with a sign that there was more."""
        sign = self._terminal.signs.ellipsis[:1]
        while columns_of(text) > columns - (1 if not text.startswith(sign) else 0):
            text = sign + text[2 if text.startswith(sign) else 1 :]
        return text


def duration(milliseconds: float | None, *, live: bool = False) -> str:
    """Return it in the unit that suits; of what is still running no more than tenths of a second."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000 and not live:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s" if live else f"{seconds:.2f} s"
    minutes, seconds = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _moment(created: float) -> datetime:
    return datetime.fromtimestamp(created, UTC)


def _kinds(fields: dict[str, Any]) -> str:
    """Say what a file would do, in the words of the plan."""
    kinds = [f"{count} x {kind}" if count > 1 else kind for kind, count in fields.get("kinds", {}).items()]
    how = "" if fields.get("transactional") else " (without a transaction)"
    return f"{', '.join(kinds) or 'no statement'}{how}"


def _place(fields: dict[str, Any]) -> str:
    """Say where a file failed, and with what: all its fields that are a word or a number."""
    place = ":".join(str(fields[key]) for key in ("migration", "line", "column") if key in fields)
    told = [place if "line" in fields else ""]
    if "statement" in fields:
        of = f" of {fields['statements']}" if "statements" in fields else ""
        told.append(f"statement {fields['statement']}{of}")
    if "sqlstate" in fields:
        told.append(" ".join(["SQLSTATE", *(str(fields[key]) for key in ("sqlstate", "condition") if key in fields)]))
    for key, value in fields.items():
        if key == "after_failure":
            told.append("after an earlier failure" if value else "")
        elif key not in _IN_THE_ROW | _CONSTANTS and isinstance(value, str | int | float) and not _sentences(value):
            told.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(filter(None, told))


def _sentences(value: Any) -> list[str]:
    """Return what is more than a word."""
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return [value] if isinstance(value, str) and " " in value else []
