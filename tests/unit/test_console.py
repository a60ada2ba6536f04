"""The text log, on pseudo terminals and on other streams."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.log.console import duration
from predeploy.log.setup import open_log
from predeploy.migrations.migration import Migration
from predeploy.migrations.source_line import SourceLine
from scripts.pseudo_terminal import Screen
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
COLUMNS = 80  # if the terminal does not report its width
log = logging.getLogger("predeploy.some_module")
pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture(autouse=True)
def _xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set TERM, from which rich detects the terminal."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def text_on_a_terminal(
    term: str = "xterm", secrets: tuple[str, ...] = (), level: str = "info"
) -> Iterator[Callable[[], str]]:
    """Open a text log on a terminal; yield a function that returns all output so far."""
    control, end = os.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while True:
                chunks.append(os.read(control, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        with os.fdopen(end, "w") as stream:
            open_log(style="text", stream=stream, environ={"TERM": term}, level=level).add_secrets(secrets)
            yield lambda: b"".join(chunks).decode().replace("\r\n", "\n")
    finally:
        reader.join(10)
        os.close(control)


def screen(terminal: Callable[[], str]) -> list[str]:
    return Screen(terminal(), COLUMNS).text


def text_of(level: str = "info", secrets: tuple[str, ...] = (), *, brief: bool = False, **record: Any) -> str:
    """Return the text of a record that is written to a pipe."""
    stream = io.StringIO()
    open_log(style="text", stream=stream, level=level, brief=brief).add_secrets(secrets)
    emit(**record)
    return stream.getvalue()


def emit(message: str = "x", levelno: int = logging.INFO, **fields: Any) -> None:
    """Handle a record with a fixed time."""
    names = {"levelno": levelno, "levelname": logging.getLevelName(levelno), "created": 1_800_000_000.25}
    log.handle(logging.makeLogRecord({**names, "msg": message, **fields}))


# Plain lines


def test_a_line_has_time_level_and_message_but_no_fields_meant_for_programs() -> None:
    fields: dict[str, Any] = {"event": "postgres.ready", "host": "db", "port": 5432, "attempt": 3}
    assert text_of(message="Hello", **fields) == "2027-01-15T08:00:00.250Z info    Hello\n"


def test_a_brief_log_has_only_messages_and_no_first_line() -> None:
    assert text_of(brief=True, message="Hello") == "Hello\n"
    assert text_of(brief=True, message="Hello", event="run.started") == ""
    for at, shown in {"2026-11-22T11:34:56.5+00:00": "2026-11-22 11:34:56Z", "infinity": "infinity"}.items():
        line = text_of(brief=True, message="applied 1.sql", event="migration.status", applied_at=at)
        assert line == f"applied 1.sql  {shown}\n"
    assert text_of(brief=True, event="run.finished", exit_code=10, duration_ms=1.5) == "x\n"


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_lines_below_the_level_are_hidden_except_the_last_line(level: str) -> None:
    stream = io.StringIO()
    open_log(style="text", stream=stream, level=level)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    emit("The end", event="run.finished", exit_code=0, duration_ms=1.5)
    shown = [line.split(maxsplit=2)[2] for line in stream.getvalue().splitlines()]
    assert shown == {"info": ["i", "w", "e"], "warning": ["w", "e"], "error": ["e"]}[level] + ["The end (1.5 ms)"]


def test_the_name_of_the_migration_precedes_a_message_that_omits_it() -> None:
    assert text_of(message="careful", migration="1.sql").endswith(" 1.sql: careful\n")
    assert text_of(message="Trying 1.sql again", migration="1.sql").endswith(" info    Trying 1.sql again\n")


def test_texts_that_explain_a_failure_are_indented_below_it() -> None:
    fields: dict[str, Any] = {
        "event": "migration.failed", "migration": "1.sql", "error": "no", "sqlstate": "23505", "line": 3,
        "hint": "do this", "advice": ["first a", "then b"], "constraint": "users_pkey", "nothing": None,
        "code": "FOR_PROGRAMS", "holder": {"pid": 1}, "excerpt": SourceLine(Migration("001.sql", "hidden"), 1, 1),
    }  # fmt: skip
    shown = text_of(message="Failed: 1.sql:3: no (SQLSTATE 23505)", levelno=logging.ERROR, **fields).splitlines()
    assert shown == [
        "2027-01-15T08:00:00.250Z error   Failed: 1.sql:3: no (SQLSTATE 23505)",
        "    hint: do this",
        "    advice: first a",
        "    advice: then b",
        "    constraint: users_pkey",
    ]
    assert len(text_of(levelno=logging.INFO, **fields).splitlines()) == 1


def test_the_last_line_shows_the_exit_code_and_the_duration() -> None:
    shown = text_of(message="1 failed", event="run.finished", exit_code=1, duration_ms=61_000.0)
    assert shown.endswith("1 failed (exit code 1, 0:01:01)\n")


def test_characters_that_could_move_the_cursor_are_escaped() -> None:
    shown = text_of(message="a\x1b[2J\rb\x9b1A\u202ec\td\ne", migration="\x07.sql")
    assert shown.endswith("info    \\x07.sql: a\\x1b[2J\\rb\\x9b1A\\u202ec    d\n    e\n")
    assert text_of(levelno=logging.WARNING, advice=["a\x1b[2J"]).endswith("\n    advice: a\\x1b[2J\n")


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0, "0 ms"), (9.94, "9.94 ms"), (999.4, "999 ms"), (1000, "1.0 s"), (59_900, "59.9 s"), (60_000, "0:01:00"),
        (7_260_000, "2:01:00"),
    ],
    ids=str,
)  # fmt: skip
def test_a_duration_has_a_suitable_unit(milliseconds: float, shown: str) -> None:
    assert duration(milliseconds) == shown


@pytest.mark.parametrize("style", ["json", "text"])
def test_rich_is_not_loaded_if_the_output_is_a_pipe(style: str) -> None:
    source = (
        "import logging, sys; from predeploy.log.setup import open_log;"
        f"open_log(style='{style}', environ={{'TERM': 'xterm'}}); logging.getLogger('predeploy').info('x');"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=False, timeout=60).returncode == 0


# Drawn by rich


def test_markup_and_emoji_codes_are_text() -> None:
    with text_on_a_terminal() as terminal:
        emit("[bold]a[/bold] :bug: [/]", event="migration.failed", migration="[red]", hint="[b]", levelno=40)
        emit("[/]", event="run.finished")
    shown = screen(terminal)
    assert shown[:2] == ["08:00:00Z error   [red]: [bold]a[/bold] :bug: [/]", " " * 18 + "hint: [b]"]
    assert any(re.fullmatch(r"  \[red\] +failed", line) for line in shown)
    assert shown[-2:] == ["08:00:00Z info    [/]", ""]


def test_a_long_message_is_wrapped_and_indented() -> None:
    with text_on_a_terminal() as terminal:
        emit("word " * 30 + "x" * 100)
    head, *others, _ = screen(terminal)
    assert head.startswith("08:00:00Z info    word word")
    assert all(line.startswith(" " * 18) and len(line) <= COLUMNS for line in others)
    assert "".join(screen(terminal)).count("x") == 100


@pytest.mark.parametrize("secret", ["hunter2", "two words", 'q"uo\\te', "Grüße🐘", "four\ntwo lines", "x" * 300])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_no_part_of_the_output_contains_a_secret(secret: str, term: str) -> None:
    with text_on_a_terminal(term, (secret,)) as terminal:
        excerpt = SourceLine(Migration("001.sql", f"a {secret} b {secret}"), 1, 6)
        texts = {"error": secret, "hint": f"a {secret}", "advice": [f"b {secret}"], "condition": secret}
        emit(secret, logging.ERROR, event="migration.failed", migration=f"1{secret}", excerpt=excerpt, **texts)
        emit(secret, event="migration.status", migration=secret, state="applied")
        emit(secret, event="migration.started", migration=secret)
        emit(secret, event="migration.progress", migration=secret, phase=secret)
        time.sleep(0.3)
        emit(secret, event="run.finished", exit_code=143)
    assert "***" in terminal()
    for part in secret.split("\n"):
        assert part not in terminal()


WAITING = {"mode": "AccessExclusiveLock", "type": "relation", "relation": "orders"}
BLOCKER = {"pid": 7, "application_name": "psql", "state": "active", "transaction_age_s": 63.2}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"statement": 2, "statements": 5, "command": "DO", "line": 9}, "statement 2 of 5, DO, line 9"),
        ({"statement_at_least": 2, "statements": 5}, "statement 2 or later of 5"),
        ({"operation": "CREATE INDEX", "phase": "building", "percent": 43.5}, "CREATE INDEX: building, 43.5 %"),
        ({"operation": "COPY", "tuples_done": 12}, "COPY, 12 rows"),
        ({"waiting_for": WAITING}, "waiting for AccessExclusiveLock on orders"),
        (
            {"waiting_for": {**WAITING, "type": "advisory", "relation": None}},
            "waiting for AccessExclusiveLock on advisory",
        ),
        ({"blocked_by": [BLOCKER]}, "blocked by psql (pid 7, active, open for 63 s)"),
        ({"blocked_by": [dict.fromkeys(BLOCKER) | {"pid": 0}]}, "blocked by a prepared transaction"),
        ({"operation": "VACUUM", "phase": "x" * 100}, f"VACUUM: {'x' * 46}"),  # text that does not fit is cut off
    ],
    ids=str,
)
def test_the_live_line_shows_the_progress_fields(fields: dict[str, Any], shown: str) -> None:
    with text_on_a_terminal(level="error") as terminal:
        emit("Running", logging.DEBUG, event="migration.started", migration="1.sql", number=3, pending=12)
        eventually(lambda: re.fullmatch(r" +[\d.]+ m?s 1\.sql  3 of 12", screen(terminal)[-1]))
        emit("no text that is read", event="migration.progress", migration="1.sql", elapsed_s=100.0, **fields)
        live = f"1.sql  3 of 12  {shown}".rstrip()
        eventually(lambda: re.fullmatch(rf" +0:01:4\d {re.escape(live)}", screen(terminal)[-1]))
        emit("The end", event="run.finished", exit_code=0)
    assert "1.sql  3 of 12" not in "".join(screen(terminal))


def test_a_row_replaces_the_live_line_and_nothing_is_drawn_after_the_last_row() -> None:
    with text_on_a_terminal() as terminal:
        emit("Running", logging.DEBUG, event="migration.started", migration="1.sql", number=1, pending=1)
        for number in range(50):
            emit(f"row {number}")
            time.sleep(0.01)
        emit("The end", event="run.finished", exit_code=143)
        time.sleep(0.3)  # long enough for a live line to be drawn
    lines = [line for line in screen(terminal) if line]
    assert lines[:50] == [f"08:00:00Z info    row {number}" for number in range(50)]
    assert lines[-1] == "08:00:00Z info    The end (exit code 143)"
    assert terminal().endswith("\n")
    assert terminal().count("\x1b[?25l") == terminal().count("\x1b[?25h") == 1
    assert any(re.fullmatch(r"  1\.sql +interrupted", line) for line in lines)


def test_a_final_table_shows_every_outcome() -> None:
    with text_on_a_terminal() as terminal:
        emit(event="migration.applied", migration="1.sql", duration_ms=12.3)
        emit(event="migration.skipped", migration="2.sql")
        emit(event="migration.failed", migration="3 longer.sql", levelno=logging.ERROR, error="no")
        emit(event="migration.not_run", migration="4.sql", levelno=logging.WARNING)
        emit("The end", event="run.finished", exit_code=1, levelno=logging.ERROR)
    table = [line.split() for line in screen(terminal)[-9:]]
    assert [table[0], *table[2:6], table[-2][2:4]] == [
        ["migration", "outcome", "duration"],
        ["1.sql", "applied", "12.3", "ms"],
        ["2.sql", "skipped"],
        ["3", "longer.sql", "failed"],
        ["4.sql", "not", "run"],
        ["The", "end"],
    ]


def test_a_long_table_omits_applied_migrations() -> None:
    with text_on_a_terminal() as terminal:
        for number in range(100):
            emit(f"Applied {number}.sql", event="migration.applied", migration=f"{number}.sql", duration_ms=1.0)
        emit(event="migration.failed", migration="bad.sql", levelno=logging.ERROR)
        emit("The end", event="run.finished", exit_code=1, levelno=logging.ERROR)
    assert sum(line.startswith("  ") and line.endswith("ms") for line in screen(terminal)) == 0
    assert any(re.fullmatch(r"  bad\.sql +failed", line) for line in screen(terminal))


@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("column", [1, 500, 1000], ids=str)
@pytest.mark.parametrize("line", ["x" * 1000, "\t" * 1000, "你" * 20], ids=["narrow", "tabs", "wide"])
def test_a_long_source_line_is_cut_to_the_part_around_the_caret(line: str, column: int, term: str) -> None:
    column = min(column, len(line))
    marked = line[: column - 1] + "!" + line[column:]
    with text_on_a_terminal(term) as terminal:
        emit(
            event="migration.failed",
            migration="1.sql",
            excerpt=SourceLine(Migration("001.sql", marked), 1, column),
            levelno=40,
        )
    row, caret = screen(terminal)[-3:-1]
    before = row[: row.index("!")]
    assert len(before) + before.count("你") == caret.index("^")


def test_a_terminal_that_is_closed_is_no_longer_used(capfd: pytest.CaptureFixture[str]) -> None:
    control, end = os.openpty()
    with suppress(OSError), os.fdopen(end, "w") as stream:
        open_log(style="text", stream=stream, environ={"TERM": "xterm"})
        emit("Running", logging.DEBUG, event="migration.started", migration="1.sql")
        os.close(control)
        time.sleep(0.3)  # long enough for a live line to be drawn
        emit("row")
        emit("The end", event="run.finished", exit_code=0)
    assert capfd.readouterr() == ("", "")
