"""If libpq would ignore a password file, the error gives the reason, and libpq writes nothing to stderr.

In every test, the fixture `run` checks that stderr is empty.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from predeploy import check_db_health, create_db
from predeploy.connection import passfile
from predeploy.connection.dsn import parse_dsn
from predeploy.connection.parameters import login_parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

COMMANDS = ("migrate", "status", "check", "health", "plan")
WANTED = "The server requires a password, but "


@pytest.fixture
def file(tmp_path: Path, database: Database) -> Path:
    """A password file that libpq accepts, with the database's password."""
    escaped = database.password.replace("\\", "\\\\").replace(":", "\\:")
    path = tmp_path / "passfile"
    path.write_text(f"127.0.0.1:*:*:{database.owner}:{escaped}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def without_password(database: Database) -> str:
    return f"host=127.0.0.1 port={database.port} user={database.owner} dbname={database.name}"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_the_error_shows_the_mode_of_a_file_that_others_may_read(
    run: Callable[..., Run], file: Path, without_password: str, mode: int, command: str
) -> None:
    file.chmod(mode)
    ended = run(command, DATABASE_URL=without_password, PGPASSFILE=str(file))
    shown = ended.report["message"]
    assert ended.exit_code == (3 if command == "health" else 5)
    assert f"{WANTED}PGPASSFILE was ignored: its mode is {mode:04o}, and libpq requires 0600 or stricter: " in shown
    assert "use DATABASE_URL_FILE, which accepts any mode, or set the mode to 0400 and the owner to " in shown
    assert str(file) not in ended.stdout


@pytest.mark.parametrize("wait", ["0", "30"])  # without and with the fast path
def test_the_error_names_the_source_of_the_file(
    run: Callable[..., Run], file: Path, without_password: str, wait: str
) -> None:
    file.chmod(0o644)
    services = file.with_name("services")
    services.write_text(f"[app]\npassfile={file}\n")
    home = file.with_name("home")
    home.mkdir()
    (home / ".pgpass").write_text(file.read_text())
    (home / ".pgpass").chmod(0o644)

    def message(named: str, **variables: str) -> str:
        ended = run(DATABASE_URL=without_password + named, MIGRATE_WAIT_TIMEOUT=wait, **variables)
        assert ended.exit_code == 5
        return str(ended.report["message"])

    assert f"{WANTED}passfile was ignored: its mode is 0644" in message(f" passfile={file}")
    of_service = f"{WANTED}the file in PGPASSFILE or in the service's passfile was ignored: its mode is 0644"
    assert of_service in message(" service=app", PGSERVICEFILE=str(services))
    assert of_service in message("", PGSERVICE="app", PGSERVICEFILE=str(services))
    assert f"{WANTED}~/.pgpass was ignored: its mode is 0644" in message("", HOME=str(home))


def test_a_file_that_is_missing_or_not_regular_is_reported(
    run: Callable[..., Run], tmp_path: Path, without_password: str
) -> None:
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, problem in [
        (tmp_path / "directory", "it is a directory: mount a file there, or use DATABASE_URL_FILE."),
        (tmp_path / "fifo", "it is not a regular file: mount a file there, or use DATABASE_URL_FILE."),
        (tmp_path / "missing", "it does not exist: fix the path, or mount the file."),
    ]:
        ended = run(DATABASE_URL=without_password, PGPASSFILE=str(path))
        assert (ended.exit_code, ended.report["message"]) == (5, f"{WANTED}PGPASSFILE was ignored: {problem}")


def test_a_file_without_a_matching_line_is_reported(run: Callable[..., Run], file: Path, without_password: str) -> None:
    file.write_text("other:*:*:*:Zq7xKv9w\n")
    ended = run(DATABASE_URL=without_password, PGPASSFILE=str(file))
    assert ended.exit_code == 5
    assert f"{WANTED}no line in PGPASSFILE matches the host, port, database and user: " in ended.report["message"]


def test_without_any_file_the_password_is_missing(run: Callable[..., Run], without_password: str) -> None:
    ended = run(DATABASE_URL=without_password)
    assert (ended.exit_code, ended.report["message"]) == (
        5,
        "The server requires a password: add it to the connection string, or set PGPASSWORD or PGPASSFILE.",
    )


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_used(
    run: Callable[..., Run], file: Path, without_password: str, migrations_dir: MigrationsDir, mode: int
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    file.chmod(mode)
    for named, variables in [("", {"PGPASSFILE": str(file)}), (f" passfile={file}", {})]:
        assert run(DATABASE_URL=without_password + named, **variables).exit_code == 0


def test_an_ignored_file_does_not_matter_if_the_password_is_known(
    run: Callable[..., Run], file: Path, database: Database, without_password: str
) -> None:
    file.chmod(0o644)
    assert run(PGPASSFILE=str(file)).exit_code == 0
    variables = {"PGPASSFILE": str(file), "PGPASSWORD": database.password}
    assert run(DATABASE_URL=without_password, **variables).exit_code == 0


def test_the_library_reports_an_ignored_file_and_keeps_stderr_empty(
    file: Path, without_password: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file.chmod(0o644)
    monkeypatch.setenv("PGPASSFILE", str(file))
    with create_db(without_password) as db:
        health: Any = check_db_health(db)
    assert f"{WANTED}PGPASSFILE was ignored: its mode is 0644" in health.error
    assert capfd.readouterr().err == ""


def test_the_file_is_checked_again_before_each_login(file: Path, without_password: str) -> None:
    dsn = parse_dsn(f"{without_password} passfile={file}")
    assert "passfile" not in login_parameters(dsn)
    file.chmod(0o644)
    assert login_parameters(dsn)["passfile"] == passfile.NOWHERE


def test_a_file_that_the_user_cannot_read_is_reported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(passfile, "open", refuse, raising=False)  # the tests may run as root
    assert passfile.why_ignored(str(file)) == (
        f"user {os.geteuid()} cannot read it: change its owner, or use DATABASE_URL_FILE"
    )
