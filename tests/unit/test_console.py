"""The log for people, on streams that are pseudo terminals and on others."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from predeploy.log.rows import duration
from predeploy.log.setup import open_log
from predeploy.log.terminal import Terminal, columns_of, pad, plain
from predeploy.migrations.source_line import Excerpt
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("predeploy.some_room")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what open_log does to the whole process."""
    logger = logging.getLogger("predeploy")
    before = (logger.handlers[:], logger.level, logger.propagate, logging.lastResort, logging.raiseExceptions)
    yield
    logger.handlers[:], level, logger.propagate, logging.lastResort, logging.raiseExceptions = before
    logger.setLevel(level)
    logging.captureWarnings(capture=False)


@contextmanager
def pseudo_terminal() -> Iterator[tuple[TextIO, list[bytes]]]:
    """Open a terminal and read from it all the while; yield its stream and what has come."""
    control, end = os.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        while True:
            try:
                pieces.append(os.read(control, 65536))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        with os.fdopen(end, "w") as stream:
            yield stream, pieces
    finally:
        reader.join(10)
        os.close(control)


def text_of(level: str = "info", secrets: tuple[str, ...] = (), **record: Any) -> str:
    """Return what a record looks like in a pipe."""
    stream = io.StringIO()
    open_log(style="text", stream=stream, level=level).learn(secrets)
    emit(**record)
    return stream.getvalue()


def emit(message: str = "x", levelno: int = logging.INFO, **fields: Any) -> None:
    """Handle a record that is made at a known time."""
    names = {"levelno": levelno, "levelname": logging.getLevelName(levelno), "created": 1_800_000_000.25}
    log.handle(logging.makeLogRecord({**names, "msg": message, **fields}))


def test_a_row_has_time_mark_and_message_and_no_field_that_only_programs_want() -> None:
    fields: dict[str, Any] = {"event": "postgres.ready", "host": "db", "port": 5432, "attempt": 3}
    assert text_of(message="Hello", **fields) == "2027-01-15T08:00:00.250Z · Hello\n"


@pytest.mark.parametrize(
    ("level", "mark"), [(logging.DEBUG, "·"), (logging.INFO, "·"), (logging.WARNING, "!"), (logging.ERROR, "✗")]
)
def test_the_mark_tells_the_level(level: int, mark: str) -> None:
    assert text_of(level="debug", levelno=level).split()[1] == mark


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_less_than_the_level_is_not_shown_but_the_last_line_is(level: str) -> None:
    stream = io.StringIO()
    open_log(style="text", stream=stream, level=level)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    emit("The end", event="run.finished", exit_code=0, duration_ms=1.5)
    shown = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert shown == {"info": ["i", "w", "e"], "warning": ["w", "e"], "error": ["e"]}[level] + ["The end (1.5 ms)"]


def test_a_file_that_the_message_does_not_name_stands_before_it() -> None:
    assert text_of(message="Postgres says: hello", migration="1.sql").endswith(
        " · 1.sql                 Postgres says: hello\n"
    )
    assert text_of(message="Trying 1.sql again", migration="1.sql").endswith(" · Trying 1.sql again\n")


def test_what_is_unknown_of_a_failure_is_told_calmly() -> None:
    fields: dict[str, Any] = {
        "migration": "1.sql", "error": "no", "after_failure": True, "sqlstate": "42P01", "condition": "undefined_table",
        "line": 3, "column": 7, "statement": 2, "statements": 5, "hint": "do this", "advice": ["first a", "then b"],
        "constraint": "users_pkey", "nothing": None, "holder": {"pid": 1},
    }  # fmt: skip
    shown = text_of(levelno=logging.ERROR, event="migration.failed", **fields).splitlines()
    assert shown[0].endswith("✗ 1.sql                 failed: no")
    assert [line.strip() for line in shown[1:]] == [
        "1.sql:3:7, statement 2 of 5, SQLSTATE 42P01 undefined_table, after an earlier failure, constraint users_pkey",
        "hint: do this",
        "advice: first a",
        "advice: then b",
    ]


def test_a_warning_shows_the_sentences_that_its_message_lacks() -> None:
    fields: dict[str, Any] = {
        "advice": "SELECT pg_terminate_backend(12)",
        "reason": "some words",
        "hint": "said already",
        "n": 1,
    }
    shown = text_of(message="Waiting: said already", levelno=logging.WARNING, **fields).splitlines()
    assert [line.strip() for line in shown[1:]] == ["advice: SELECT pg_terminate_backend(12)"]


def test_a_traceback_is_shown_and_scrubbed() -> None:
    stream = io.StringIO()
    open_log(style="text", stream=stream).learn(["hunter2"])
    with pytest.raises(ValueError, match="hunter2") as caught:
        int("it was hunter2")
    log.error("Failed", exc_info=caught.value)
    assert "✗ Failed\nTraceback (most recent call last):\n" in stream.getvalue()
    assert stream.getvalue().endswith("'it was ***'\n")


@pytest.mark.parametrize("secret", ["hunter2", "two words", 'q"uo\\te', "Grüße🐘", "four\ntwo lines", "x" * 300])
def test_no_part_of_what_is_shown_holds_a_secret(secret: str) -> None:
    with pseudo_terminal() as (stream, pieces):
        open_log(style="text", stream=stream, environ={"TERM": "xterm"}).learn([secret])
        excerpt = Excerpt(f"a {secret} b {secret}", 1, 6)
        texts = {"error": secret, "hint": f"a {secret}", "advice": [f"b {secret}"], "condition": secret}
        emit(secret, logging.ERROR, event="migration.failed", migration=f"1{secret}", excerpt=excerpt, **texts)
        emit(secret, event="migration.status", migration=secret, state="applied")
        emit(secret, event="migration.started", migration=secret)
        emit(secret, event="migration.progress", migration=secret)
        eventually(lambda: b"\x1b[K" in b"".join(pieces))
        emit(secret, event="run.finished", exit_code=143)
    shown = b"".join(pieces).decode()
    assert "***" in shown
    for part in secret.split("\n"):
        assert part not in shown


def test_what_could_move_the_cursor_is_spelt_out() -> None:
    shown = text_of(message="a\x1b[2J\rb\x9b1A\u202ec\td\ne", migration="\x07.sql")
    assert shown.endswith("\\x07.sql              a\\x1b[2J\\x0db\\x9b1A\\u202ec    d\n" + " " * 49 + "e\n")


def test_at_the_end_a_table_tells_every_file() -> None:
    stream = io.StringIO()
    open_log(style="text", stream=stream)
    emit(event="migration.applied", migration="1.sql", duration_ms=12.3)
    emit(event="migration.skipped", migration="2.sql")
    emit(event="migration.failed", migration="3 longer.sql", levelno=logging.ERROR, error="no")
    emit(event="migration.not_run", migration="4.sql", levelno=logging.WARNING)
    emit("The end", event="run.finished", exit_code=1, levelno=logging.ERROR)
    assert stream.getvalue().splitlines()[-7:-1] == [
        "  file          outcome  duration",
        "✓ 1.sql         applied     12 ms",
        "· 2.sql         skipped",
        "✗ 3 longer.sql  failed",
        "! 4.sql         not run",
        "",
    ]


def test_a_long_table_is_that_of_what_went_wrong() -> None:
    stream = io.StringIO()
    open_log(style="text", stream=stream)
    for number in range(1000):
        emit(event="migration.applied", migration=f"{number}.sql", duration_ms=1.0)
    emit(event="migration.failed", migration="bad.sql", levelno=logging.ERROR, error="no")
    emit("The end", event="run.finished", exit_code=1, levelno=logging.ERROR)
    assert stream.getvalue().splitlines()[-5:-1] == [
        "  file     outcome  duration",
        "✗ bad.sql  failed",
        "  and 1000 more",
        "",
    ]


def test_nothing_is_drawn_after_the_last_line() -> None:
    with pseudo_terminal() as (stream, pieces):
        open_log(style="text", stream=stream, environ={"TERM": "xterm"})
        emit(event="migration.started", migration="1.sql")
        eventually(lambda: b"1.sql" in b"".join(pieces))
        emit("The end", event="run.finished", exit_code=143)
        redrawers = [thread for thread in threading.enumerate() if thread.name == "pg-predeploy-console"]
        for thread in redrawers:
            thread.join(10)
            assert not thread.is_alive()
    assert b"".join(pieces).decode().splitlines()[-1].count("The end") == 1


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, ""), (0, "0.0 ms"), (9.94, "9.9 ms"), (10, "10 ms"), (999.4, "999 ms"), (1000, "1.00 s"),
        (59_990, "59.99 s"), (60_000, "1 min 00 s"), (3_599_000, "59 min 59 s"), (7_260_000, "2 h 01 min"),
    ],
    ids=str,
)  # fmt: skip
def test_a_duration_has_the_unit_that_suits(milliseconds: float | None, shown: str) -> None:
    assert duration(milliseconds) == shown


@pytest.mark.parametrize("column", [1, 5, 500, 995, 1000], ids=str)
@pytest.mark.parametrize("line", ["x" * 1000, "你" * 1000, "\t" * 1000], ids=["narrow", "wide", "tabs"])
def test_of_a_long_line_the_part_around_the_caret_is_shown(line: str, column: int) -> None:
    marked = line[: column - 1] + "!" + line[column:]
    with pseudo_terminal() as (stream, pieces):
        open_log(style="text", stream=stream)
        emit(event="migration.failed", migration="1.sql", error="no", excerpt=Excerpt(marked, 1, column), levelno=40)
    shown = b"".join(pieces).decode().splitlines()
    assert max(columns_of(text) for text in shown) <= 80
    row, caret = shown[-2:]
    assert columns_of(row[: row.index("!")]) == caret.index("^")


@pytest.mark.parametrize("text", ["plain words", "a" * 100, "你好 " * 20, "é" * 70, "🐘" * 40, "x " * 60, " ", ""])
@pytest.mark.parametrize("columns", [8, 13, 40], ids=str)
def test_wrapped_text_fits_and_is_complete(text: str, columns: int) -> None:
    terminal = Terminal(io.StringIO(), {})
    lines = terminal.wrap(text, columns)
    assert max(map(columns_of, lines), default=0) <= columns
    assert re.sub(" ", "", "".join(lines)) == re.sub(" ", "", text)


@pytest.mark.parametrize("columns", range(1, 12), ids=str)
@pytest.mark.parametrize("text", ["short", "a_longer_name.sql", "größe_你好_🐘.sql"])
def test_a_name_that_is_cut_fits_and_keeps_both_ends(text: str, columns: int) -> None:
    shown = Terminal(io.StringIO(), {}).fit(text, columns)
    assert columns_of(shown) <= columns
    if "…" in shown and columns > 6:
        assert (shown[0], shown[-1]) == (text[0], text[-1])


def test_padding_counts_columns() -> None:
    assert pad("你好", 6) == "你好  "
    assert columns_of(plain("e\u0301🐘")) == 3
