"""The program on a real pseudo terminal."""

from __future__ import annotations

import os
import re
import signal
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

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SLOW = "SELECT pg_advisory_lock(4711);"  # as long as the test holds it


@pytest.fixture
def sit(database: Database, migrations_dir: MigrationsDir, tmp_path: Path) -> Iterator[Sit]:
    """Start the program on a terminal: `sit(*args, columns=100, NAME="value", OTHER=None)`; secrets are looked for."""
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
    """Return what stands there in the end."""
    return Screen(terminal.output, terminal.columns).text


def ended(terminal: PseudoTerminal, exit_code: int = 0) -> list[str]:
    assert terminal.finish() == exit_code, terminal.output
    return screen(terminal)


@pytest.fixture
def gate(database: Database) -> Iterator[Callable[[], object]]:
    """What SLOW waits for, until this is called."""
    with database.connect() as conn:
        conn.execute(SLOW)
        yield lambda: conn.execute("SELECT pg_advisory_unlock(4711)")


# Colour


def test_on_a_terminal_there_is_colour(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    terminal = sit()
    ended(terminal)
    assert "\x1b[32m✓\x1b[0m" in terminal.output


@pytest.mark.parametrize("command", ["migrate", "status", "check", "health"])
@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"NO_COLOR": "0"}, {"TERM": "dumb"}, {"TERM": None}], ids=str)
def test_without_colour_nothing_is_coloured(
    sit: Sit, migrations_dir: MigrationsDir, command: str, variables: dict[str, str | None]
) -> None:
    migrations_dir.write("001.sql", "SELECT nothing")
    terminal = sit(command, **variables)
    terminal.finish()
    assert "001.sql" in terminal.output or command == "health"
    assert not COLOUR.search(terminal.output)


def test_an_empty_no_color_is_none(sit: Sit) -> None:
    terminal = sit(NO_COLOR="")
    ended(terminal)
    assert COLOUR.search(terminal.output)


@pytest.mark.parametrize("variables", [{"MIGRATE_LOG_FORMAT": "json"}, {}], ids=["variable", "option"])
def test_json_on_a_terminal_holds_no_escape_sequence(
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


def test_json_on_a_terminal_is_json_before_the_settings_are_read(sit: Sit) -> None:
    terminal = sit("--json", MIGRATE_LOG_FORMAT="none of ours")
    assert terminal.finish() == 2
    assert terminal.output.startswith("{")


def waits(database: Database) -> bool:
    found = database.admin_query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(found[0][0])


# Live


def test_a_live_line_tells_the_file_and_the_time_and_is_gone_afterwards(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002_slow.sql", SLOW)
    terminal = sit()
    terminal.wait_for("0.3 s  2 of 2")
    live = screen(terminal)[-1]
    assert re.fullmatch(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] 002_slow\.sql  0\.\d s  2 of 2", live)
    gate()
    lines = ended(terminal)
    assert not any("2 of 2" in line for line in lines)
    assert sum(re.search(r"✓ 002_slow\.sql +applied", line) is not None for line in lines) == 2  # table
    assert lines[-1] == ""
    assert re.search(r"2 applied, 0 already there \([\d.]+ m?s\)$", lines[-2])


def test_the_live_line_makes_room_for_a_row(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", f"SELECT pg_sleep(0.4);DO $$BEGIN RAISE NOTICE 'half way'; END$$;{SLOW}")
    terminal = sit()
    terminal.wait_for("half way")
    eventually(lambda: " s  1 of 1" in screen(terminal)[-1])
    assert screen(terminal)[-2].endswith("001.sql               Postgres says: half way")
    gate()
    assert not any(" s  1 of 1" in line for line in ended(terminal))


def test_the_live_line_tells_what_the_watcher_saw(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object]
) -> None:
    migrations_dir.write("001.sql", SLOW)
    terminal = sit()
    eventually(lambda: re.search(r"has run for .*blocked by", terminal.output, re.DOTALL))
    eventually(lambda: "waits for" in screen(terminal)[-1])
    assert re.match(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] 001\.sql  \d+\.\d s  1 of 1; .*waits for", screen(terminal)[-1])
    gate()
    ended(terminal)


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": None}], ids=["dumb", "unknown"])
def test_a_dumb_terminal_gets_no_live_line(
    sit: Sit,
    migrations_dir: MigrationsDir,
    gate: Callable[[], object],
    database: Database,
    variables: dict[str, str | None],
) -> None:
    migrations_dir.write("001.sql", f"{SLOW}SELECT pg_sleep(0.5)")
    terminal = sit(**variables)
    eventually(lambda: waits(database))
    gate()
    ended(terminal)
    assert "\x1b" not in terminal.output
    assert "1 of 1" not in terminal.output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_clean_last_line_and_a_cursor(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object], signum: signal.Signals, database: Database
) -> None:
    migrations_dir.write("001_slow.sql", SLOW)
    terminal = sit()
    terminal.wait_for("1 of 1")
    eventually(lambda: waits(database))
    assert terminal.process
    terminal.process.send_signal(signum)
    lines = ended(terminal, 128 + signum)
    assert not any("1 of 1" in line for line in lines)
    assert f"Ended by {signum.name}. (exit code {128 + signum}, " in lines[-2]
    assert lines[-1] == ""
    assert any(re.search(r"✗ 001_slow\.sql +cut short", line) for line in lines)
    assert terminal.output.endswith("\n")
    assert terminal.output.count("\x1b[?25l") == terminal.output.count("\x1b[?25h")
    gate()


# Widths


@pytest.mark.parametrize("columns", [40, 59, 60, 80, 200], ids=str)
def test_no_line_is_wider_than_the_terminal(
    sit: Sit, migrations_dir: MigrationsDir, columns: int, gate: Callable[[], object], database: Database
) -> None:
    migrations_dir.write("20261122173828_a_name_that_is_rather_long_for_a_file.sql", f"{SLOW}SELECT pg_sleep(0.3)")
    migrations_dir.write(
        "20261122173829_größe_你好_🐘.sql", "SELECT 1;\n" + "/* 你好 */ " * 30 + "SELECT nothing" + ", 1" * 99
    )
    terminal = sit(columns=columns)
    eventually(lambda: waits(database))
    gate()
    lines = ended(terminal, 1)
    written = terminal.output.replace("\x1b[K", "").split("\n")
    pieces = [piece for line in written for piece in COLOUR.sub("", line).split("\r")]
    assert screen_lines(pieces, columns) == len(pieces), "a line was wrapped by the terminal"
    assert any(line.strip() == "│" + " " * (line.strip().count(" ")) + "^" for line in lines)
    assert any("✗" in line and "42703" not in line for line in lines)


def screen_lines(pieces: list[str], columns: int) -> int:
    return sum(len(Screen(piece, columns).lines) for piece in pieces)


def test_a_terminal_too_narrow_for_the_live_line_gets_none(
    sit: Sit, migrations_dir: MigrationsDir, gate: Callable[[], object], database: Database
) -> None:
    migrations_dir.write("001.sql", f"{SLOW}SELECT pg_sleep(0.5)")
    terminal = sit(columns=20)
    eventually(lambda: waits(database))
    gate()
    ended(terminal)
    assert "\r" not in terminal.output


@pytest.mark.parametrize("columns", [40, 200], ids=str)
def test_status_fits(sit: Sit, migrations_dir: MigrationsDir, columns: int) -> None:
    migrations_dir.write("20261122173828_a_name_that_is_rather_long_for_a_file.sql", "SELECT 1")
    lines = ended(sit("status", columns=columns))
    assert max(len(line) for line in lines) <= columns
    assert "pending" in lines[1]
    assert ("…" in lines[1]) is (columns == 40)


# What broke


def test_the_line_that_failed_is_shown_with_a_caret(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "-- first\n\tCREATE TABLE größe_你好 (price nummeric(10, 2));\n")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "nummeric(" in line)
    before = lines[number].partition("nummeric(")[0]
    assert before.endswith("2 │     CREATE TABLE größe_你好 (price ")
    assert lines[number + 1].rstrip().endswith("^")
    # Two of the signs before the caret take two columns each.
    assert lines[number + 1].index("^") == len(before) + 2
    assert "001.sql:2:31, statement 1 of 1, SQLSTATE 42704" in lines[number - 1]


def test_of_a_file_that_is_too_big_to_be_kept_it_is_shown_too(sit: Sit, migrations_dir: MigrationsDir) -> None:
    rows = f"SELECT '{'x' * 1000}';\n" * 4000
    migrations_dir.write("001.sql", f"{rows}  SELECT nothing;\n{rows}")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "4001 │   SELECT nothing;" in line)
    assert lines[number + 1].index("^") == lines[number].index("nothing")
    assert any("statement 4001, SQLSTATE 42703" in line for line in lines)


def test_the_password_is_masked_in_the_line_that_failed(
    sit: Sit, migrations_dir: MigrationsDir, database: Database
) -> None:
    quoted = database.password.replace("'", "''")
    migrations_dir.write("001.sql", f"SELECT '{quoted}' AS a, nothing AS b")
    lines = ended(sit(), 1)
    number = next(n for n, line in enumerate(lines) if "1 │ SELECT" in line)
    assert lines[number].endswith("1 │ SELECT '***' AS a, nothing AS b")
    assert lines[number + 1].index("^") == lines[number].index("nothing")


def test_the_file_is_shown_on_a_terminal_only(sit: Sit, migrations_dir: MigrationsDir, tmp_path: Path) -> None:
    migrations_dir.write("001.sql", "SELECT nothing /* hidden_in_the_file */")
    message = tmp_path / "termination-log"
    terminal = sit(MIGRATE_TERMINATION_LOG=str(message))
    ended(terminal, 1)
    assert "hidden_in_the_file" in terminal.output
    assert "hidden_in_the_file" not in message.read_text()


def test_a_name_cannot_move_the_cursor(sit: Sit, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("00\x1b[2J1\n.sql", "SELECT 1")
    terminal = sit(NO_COLOR="1")
    lines = ended(terminal)  # Screen knows no other escape sequences than ours
    assert any("00\\x1b[2J1" in line for line in lines)


# The terminal itself


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_the_encoding_lacks_are_ascii(sit: Sit, migrations_dir: MigrationsDir, encoding: str) -> None:
    migrations_dir.write("001_größe.sql", "SELECT nothing")
    terminal = sit(PYTHONIOENCODING=encoding)
    terminal.finish()
    assert "\x1b[31mx\x1b[0m" in terminal.output
    assert "1 |\x1b[0m SELECT nothing" in terminal.output
    assert "✗" not in terminal.output


def test_a_terminal_that_goes_away_neither_holds_nor_ends_the_run(
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
