"""The program on a real pseudo terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from scripts.pseudo_terminal import PseudoTerminal, Screen
from tests.support.eventually import eventually
from tests.support.program import ENTRYPOINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir

    Sit = Callable[..., PseudoTerminal]

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
LIVE = r" +[\d.]+ m?s "
SLOW = "SELECT pg_advisory_lock(4711);"  # waits as long as the test holds the lock


@pytest.fixture
def sit(database: Database, migrations_dir: MigrationsDir, tmp_path: Path) -> Iterator[Sit]:
    """Start the program on a terminal: `sit(*args, columns=100, NAME="value", OTHER=None)`; check for secrets."""
    terminals: list[PseudoTerminal] = []

    def start(*args: str, columns: int = 100, **variables: str | None) -> PseudoTerminal:
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "DATABASE_URL": database.dsn,
            "MIGRATIONS_DIR": str(migrations_dir),
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            **variables,
        }
        environment = {name: value for name, value in given.items() if value is not None}
        terminal = PseudoTerminal(columns)
        terminals.append(terminal)
        terminal.start([sys.executable, str(ENTRYPOINT), *args], environment)
        return terminal

    yield start
    for terminal in terminals:
        terminal.__exit__()
        assert not any(secret in terminal.output for secret in database.secrets), "a secret was printed"


def screen(terminal: PseudoTerminal) -> list[str]:
    """Return the final content of the screen."""
    return Screen(terminal.output, terminal.columns).text


def ended(terminal: PseudoTerminal, exit_code: int = 0) -> list[str]:
    assert terminal.finish() == exit_code, terminal.output
    return screen(terminal)


@pytest.fixture
def gate(database: Database) -> Iterator[Callable[[], object]]:
    """Hold the lock that SLOW waits for; yield a function that releases it."""
    with database.connect() as conn:
        conn.execute(SLOW)
        yield lambda: conn.execute("SELECT pg_advisory_unlock(4711)")


# Colour


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_there_is_colour_unless_no_color_is_set(
    sit: Sit, migrations_dir: MigrationsDir, no_color: str, coloured: bool
) -> None:
    migrations_dir.write("001.sql", "SELECT nothing")
    terminal = sit(NO_COLOR=no_color)
    terminal.finish()
    assert "001.sql" in terminal.output
    assert bool(COLOUR.search(terminal.output)) is coloured


@pytest.mark.parametrize("variables", [{"MIGRATE_LOG_FORMAT": "json"}, {}], ids=["variable", "option"])
def test_json_on_a_terminal_contains_no_escape_sequence(
    sit: Sit, migrations_dir: MigrationsDir, variables: dict[str, str], gate: Callable[[], object], database: Database
) -> None:
    migrations_dir.write("001.sql", f"{SLOW}\nSELECT 1/0 AS hidden_in_the_file;")
    terminal = sit(*([] if variables else ["--json"]), **variables)
    eventually(lambda: waits(database))
    gate()
    assert terminal.finish() == 1
    assert "\x1b" not in terminal.output
    assert "\r" not in terminal.output
    assert "hidden_in_the_file" not in terminal.output
    assert all(line.startswith("{") for line in terminal.output.splitlines())


def waits(database: Database) -> bool:
    found = database.admin_query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(found[0][0])


# Plain lines


@pytest.mark.parametrize("lacking", ["rich", "a capable terminal"])
def test_lines_are_plain_without_rich_or_a_capable_terminal(
    sit: Sit,
    migrations_dir: MigrationsDir,
    gate: Callable[[], object],
    database: Database,
    tmp_path: Path,
    lacking: str,
) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "rich.py").write_text("raise ImportError('rich is not installed')")
    migrations_dir.write("001.sql", f"{SLOW}SELECT pg_sleep(0.3)")
    migrations_dir.write("002.sql", "-- first\n\tSELECT größe_你好, nothing\n")
    terminal = sit(columns=300, **({"PYTHONPATH": str(tmp_path / "shadow")} if lacking == "rich" else {"TERM": "dumb"}))
    eventually(lambda: waits(database))
    gate()
    lines = ended(terminal, 1)
    assert "\x1b" not in terminal.output
    assert "1 of 2" not in terminal.output
    at = lines.index("    2 |     SELECT größe_你好, nothing")
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ error   Failed: 002\.sql:2:9: .*", lines[at - 2])
    assert lines[at - 1].startswith("    advice: ")
    assert lines[at + 1] == " " * lines[at].index("größe") + "^"
    assert "exit code 1, " in lines[-2]


# Live


def test_a_live_line_shows_the_migration_and_the_time_and_disappears_afterwards(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002_slow.sql", SLOW)
    terminal = sit()
    eventually(lambda: re.fullmatch(rf"{LIVE}002_slow\.sql  2 of 2", screen(terminal)[-1]))
    gate()
    lines = ended(terminal)
    assert not any("2 of 2" in line for line in lines)
    assert sum("002_slow.sql" in line for line in lines) == 2  # once in the log and once in the table
    assert any(re.fullmatch(r"  002_slow\.sql +applied +[\d.]+ m?s", line) for line in lines)
    assert lines[-1] == ""
    assert re.search(r"Applied 2 migrations \([\d.]+ m?s\)$", lines[-2])
    assert terminal.output.endswith("\n")


def test_the_live_line_makes_room_for_a_row(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", f"SELECT pg_sleep(0.4);DO $$BEGIN RAISE NOTICE 'half way'; END$$;{SLOW}")
    terminal = sit(columns=40)  # the row takes two lines
    terminal.wait_for("half way")
    eventually(lambda: re.fullmatch(rf"{LIVE}001\.sql  1 of 1", screen(terminal)[-1]))
    assert " ".join(" ".join(screen(terminal)[-3:-1]).split()[2:]) == "NOTICE from 001.sql: half way"
    gate()
    assert not any("1 of 1" in line for line in ended(terminal))


def test_the_live_line_shows_what_the_watcher_saw(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", SLOW)
    terminal = sit(columns=200, MIGRATE_WATCH_AFTER="1")
    seen = r"statement 1 of 1, SELECT, line 1, waiting for ExclusiveLock on advisory, blocked by .*\(pid \d+, idle, "
    eventually(lambda: re.match(rf"{LIVE}001\.sql  1 of 1  {seen}", screen(terminal)[-1]))
    gate()
    ended(terminal)


def test_after_a_signal_the_last_line_is_clean_and_the_cursor_visible(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object], database: Database
) -> None:
    migrations_dir.write("001_slow.sql", SLOW)
    terminal = sit()
    terminal.wait_for("1 of 1")
    eventually(lambda: waits(database))
    assert terminal.process
    terminal.process.terminate()
    lines = ended(terminal, 143)
    assert not any("1 of 1" in line for line in lines)
    assert "Interrupted by SIGTERM while applying 001_slow.sql; it was rolled back (exit code" in " ".join(lines[-4:])
    assert lines[-1] == ""
    assert any(re.fullmatch(r"  001_slow\.sql +interrupted", line) for line in lines)
    assert terminal.output.endswith("\n")
    assert terminal.output.count("\x1b[?25l") == terminal.output.count("\x1b[?25h") == 1
    gate()


# Tables and the line that failed


def test_status_is_a_table(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    ended(sit())
    migrations_dir.write("002.sql", "SELECT 2")
    lines = [line.split() for line in ended(sit("status")) if line]
    assert lines[0] == ["migration", "state", "applied"]
    assert lines[2][:2] == ["001.sql", "applied"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8}Z", " ".join(lines[2][2:]))
    assert lines[3:] == [["002.sql", "pending"], ["1", "applied,", "1", "pending,", "0", "changed,", "0", "missing"]]


def test_the_line_that_failed_is_shown_with_a_caret(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "-- first\n\tCREATE TABLE größe_你好 (price nummeric(10, 2));\n")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "nummeric(" in line)
    before = lines[number].partition("nummeric(")[0]
    assert before.endswith("2 |     CREATE TABLE größe_你好 (price ")
    # Two of the characters before the caret are two columns wide.
    assert lines[number + 1] == " " * (len(before) + 2) + "^"


def test_the_failed_line_of_a_big_file_is_shown_too(sit: Sit, migrations_dir: MigrationsDir) -> None:
    rows = f"SELECT '{'x' * 1000}';\n" * 4000
    migrations_dir.write("001.sql", f"{rows}  SELECT nothing;\n{rows}")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "4001 |   SELECT nothing;" in line)
    assert lines[number + 1].index("^") == lines[number].index("nothing")


def test_the_password_is_masked_in_the_line_that_failed(
    sit: Sit, migrations_dir: MigrationsDir, database: Database
) -> None:
    quoted = database.password.replace("'", "''")
    migrations_dir.write("001.sql", f"SELECT '{quoted}' AS a, nothing AS b")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "1 | SELECT" in line)
    assert lines[number].endswith("1 | SELECT '***' AS a, nothing AS b")
    assert lines[number + 1].index("^") == lines[number].index("nothing")


def test_the_failed_line_is_shown_only_on_a_terminal(sit: Sit, migrations_dir: MigrationsDir, tmp_path: Path) -> None:
    migrations_dir.write("001.sql", "SELECT nothing /* hidden_in_the_file */")
    message = tmp_path / "termination-log"
    terminal = sit(MIGRATE_TERMINATION_LOG=str(message))
    ended(terminal, 1)
    assert "hidden_in_the_file" in terminal.output
    assert "hidden_in_the_file" not in message.read_text()


# The terminal itself


def test_a_name_can_neither_move_the_cursor_nor_choose_a_colour(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("00\x1b[2J1\n[red].sql", "SELECT 1")
    lines = ended(sit())  # Screen understands only the escape sequences that rich uses
    assert any("Applied 00\\x1b[2J1" in line for line in lines)
    assert any(line.startswith("    [red].sql") or "[red].sql (" in line for line in lines)


def test_a_terminal_without_utf_8_gets_only_characters_that_it_can_show(
    sit: Sit, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001_größe.sql", "SELECT nothing")
    terminal = sit(PYTHONIOENCODING="ascii")
    lines = ended(terminal, 1)
    assert any("1 | SELECT nothing" in line for line in lines)
    assert terminal.output.isascii()
    assert "\\u2" not in terminal.output  # not even an escaped table border


def test_closing_the_terminal_does_not_block_or_end_the_run(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object], database: Database
) -> None:
    migrations_dir.write("001.sql", SLOW)
    migrations_dir.write("002.sql", "CREATE TABLE after_all (id int); DO $$BEGIN RAISE NOTICE 'x'; END$$")
    terminal = sit()
    terminal.wait_for("1 of 2")
    eventually(lambda: waits(database))
    terminal.hang_up()
    gate()
    assert terminal.process
    assert terminal.process.wait(60) == 0
    assert database.query("SELECT name FROM _migrations ORDER BY name") == [("001.sql",), ("002.sql",)]
