"""For connection strings of every kind, no output contains any part of a password.

This file and tests/support/dsns.py define what counts as a leak, without using predeploy/connection/dsn.py.
"""

from __future__ import annotations

import io
import json
import logging
import random
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

import entrypoint
from predeploy import StorageError, check_db_health, commands, create_db, run_migrations
from predeploy.connection import health
from tests.support.dsns import CASES, COMMON, LETTERS, SHAPES, SHORT, SIGNS, Case, encoded, quoted
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = {"127.0.0.1", "::1", "localhost", "/nowhere"}
SHAPED = [case for name, case in CASES.items() if name in SHAPES.splitlines()]
pytestmark = pytest.mark.usefixtures("restored_logging")
COMMANDS = ("migrate", "status", "check", "health")


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    """Undo the process-wide changes of main()."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


class Place:
    """A directory with a connection string's files, libpq's environment, and an empty directory of migrations."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._patch = patch
        (path / "migrations").mkdir()
        patch.setenv("HOME", str(path))

    def set_up(self, case: Case) -> str:
        """Create the case's files and variables, and return its connection string."""
        for name, text in case.files.items():
            (self.path / name).write_text(text)
            (self.path / name).chmod(0o600)
        for name, value in case.variables.items():
            self._patch.setenv(name, value.replace("{dir}", str(self.path)))
        return case.dsn.replace("{dir}", str(self.path))

    def main(self, arguments: tuple[str, ...], dsn: str, style: str = "json") -> str:
        """Run the program in this process; return all its output."""
        message = self.path / "message"
        environ = {
            "DATABASE_URL": dsn,
            "MIGRATIONS_DIR": str(self.path / "migrations"),
            "MIGRATE_WAIT_TIMEOUT": "0",
            "MIGRATE_LOG_FORMAT": style,
            "MIGRATE_LOG_LEVEL": "debug",
            "MIGRATE_TERMINATION_LOG": str(message),
        }
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", stderr)
            entrypoint.main(arguments, environ)
        assert stderr.getvalue() == ""
        logged = message.read_text() if message.exists() else ""
        message.unlink(missing_ok=True)
        return stdout.getvalue() + logged


def pieces(password: str) -> set[str]:
    """Return every substring of four characters with at least three letters that are not in ordinary text."""
    return {password[at : at + 4] for at in range(max(len(password) - 3, 1))}


def leaks(text: str, dsn: str, password: str) -> list[str]:
    forms = {password, unquote(password), quote(password, safe=""), quote(password), repr(password)[1:-1]}
    forms |= {json.dumps(password)[1:-1], f"me:{password}", dsn}
    found = [form for form in forms | pieces(password) if len(form) >= 4 and form in text]
    return [form for form in found if sum(sign in LETTERS for sign in form) >= 3 or form == dsn]


def names_only_loopback(dsn: str) -> bool:
    """Return whether, according to libpq, it is safe to try to connect."""
    try:
        values = conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):
        return False
    hosts = [str(values.get(key) or "") for key in ("host", "hostaddr")]
    named = {host for text in hosts for host in text.split(",") if host}
    return bool(named) and named <= LOOPBACK and "\0" not in dsn


def plant(text: str) -> Any:
    """Replace commands by functions that raise each kind of error that contains a text."""

    def crash(*_: object) -> None:
        raise RuntimeError(text) from psycopg.OperationalError(text)

    def miss(*_: object) -> None:
        raise KeyError(text)

    def refuse(*_: object) -> None:
        raise StorageError(text)

    def fail(*_: object) -> None:
        raise psycopg.OperationalError(text)

    return {"migrate": crash, "status": miss, "check": refuse, "health": fail}


def quoting(dsn: str, password: str) -> str:
    """Return a text that contains the string and the password in all the forms that libraries write."""
    forms = [dsn, password, quote(password, safe=""), quote(password), json.dumps(password), json.dumps(dsn)]
    return " | ".join([*forms, repr(password), repr(dsn), ascii(password), f"me:{password}@", quoted(password)])


# In one process


@pytest.mark.parametrize("case", CASES.values(), ids=map(ascii, CASES))
def test_no_output_of_the_program_contains_a_part_of_the_password(place: Place, case: Case) -> None:
    dsn = place.set_up(case)
    arguments = [*((command,) for command in COMMANDS), (dsn,), (f"--url={dsn}",), ("migrate", dsn), ("--help",)]
    may_connect = names_only_loopback(dsn) or bool(case.files and "127.0.0.1" in str(case.files))
    for style in ("json", "text"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commands, "COMMANDS", plant(quoting(dsn, case.password)))
            for line in arguments:
                assert leaks(place.main(line, dsn, style), dsn, case.password) == [], line
    if may_connect and "no-such" not in dsn:
        for command in COMMANDS:
            assert leaks(place.main((command,), dsn), dsn, case.password) == [], command


@pytest.mark.parametrize("case", CASES.values(), ids=map(ascii, CASES))
def test_no_error_of_the_library_contains_a_part_of_the_password(
    place: Place, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = place.set_up(case)
    caplog.set_level(logging.DEBUG, logger="psycopg")
    shown = ""
    try:
        db = create_db(dsn)
    except StorageError as error:
        shown = all_of(error)
    else:
        if names_only_loopback(dsn) and (case in SHAPED or case.files):
            with db, pytest.MonkeyPatch.context() as patch:
                patch.setattr(health, "HEALTH_TIMEOUT_S", 0.5)
                patch.setattr(db, "timeout", 0.05)
                shown = str(check_db_health(db))
                with pytest.raises((StorageError, psycopg.Error)) as caught, db.connection(timeout=0.05):
                    pass
                shown += all_of(caught.value)
                with pytest.raises(StorageError) as refused:
                    run_migrations(db, place.path / "migrations")
                shown += all_of(refused.value) + repr(db)
        else:
            db.close()
    assert leaks(shown + caplog.text, dsn, case.password) == []


def all_of(error: BaseException) -> str:
    """Return all text of an error, including its causes and contexts, suppressed or not."""
    shown, chain, seen = "", [error], set()
    while chain:
        one = chain.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        shown += f"{one} {one!r} {one.args} {vars(one)} {''.join(traceback.format_exception_only(one))}"
        shown += str(getattr(one, "object", ""))
        chain += [other for other in (one.__cause__, one.__context__) if other]
    return shown


def test_a_crash_before_the_log_knows_the_secrets_reveals_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["postgresql://me:{}@localhost:1/app"]

    def load_settings(environ: dict[str, str], **_: object) -> None:
        raise RuntimeError(quoting(environ["DATABASE_URL"], case.password))

    monkeypatch.setattr("predeploy.settings.load_settings", load_settings)
    shown = place.main(("migrate",), case.dsn)
    assert '"crashed"' in shown
    assert leaks(shown, case.dsn, case.password) == []


def test_a_crash_message_that_quotes_a_statement_is_cut_and_its_password_masked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["postgresql://me:{}@localhost:1/app"]
    secret = CASES["postgresql://me:{}@[::1]:1/app"].password
    monkeypatch.setattr(commands, "COMMANDS", plant(f"ALTER ROLE x PASSWORD '{secret}'" + "; SELECT 1" * 100_000))
    shown = place.main(("migrate",), case.dsn)
    assert "ALTER ROLE x PASSWORD '***'" in shown
    assert leaks(shown, case.dsn, secret) == []
    assert len(shown) < 20_000


def test_the_corpus_is_long() -> None:
    assert len({case.dsn for case in CASES.values()}) >= 200


def test_the_search_finds_leaks() -> None:
    for case in CASES.values():
        assert leaks(quoting(case.dsn, case.password), case.dsn, case.password)
        assert leaks(f"port {case.password[1:6]} of", case.dsn, case.password)
        assert leaks(f"{{'x': {case.password!r}}}", case.dsn, case.password)
        assert leaks(quote(case.password), case.dsn, case.password)


# Words that occur in ordinary output


@pytest.mark.parametrize("password", [*COMMON, *SHORT], ids=ascii)
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_short_or_common_password_changes_only_texts(place: Place, password: str, style: str) -> None:
    dsn = f"postgresql://me:{encoded(password)}@127.0.0.1:1/app"
    plain = f"postgresql://me:{''.join(random.Random(1).choices(LETTERS, k=12))}@127.0.0.1:1/app"  # noqa: S311
    for command in COMMANDS:
        shown = place.main((command,), dsn, style)
        assert dsn not in shown
        assert f"me:{password}" not in shown
        assert f"password={password}" not in shown
        if style == "json":
            assert skeleton(shown) == skeleton(place.main((command,), plain, style))
    with pytest.MonkeyPatch.context() as patch:
        text = f"{dsn} me:{password}@ me:{encoded(password)} {conninfo_to_dict(dsn)} password={password} {quoted(dsn)}"
        patch.setattr(commands, "COMMANDS", plant(text))
        for command in COMMANDS:
            shown = place.main((command,), dsn, style)
            assert [form for form in (dsn, f"me:{password}@", f"password={password} ") if form in shown] == []


def skeleton(shown: str) -> list[Any]:
    """Return what programs read: the keys, the constants and the numbers, except times."""
    keys = {"event", "level", "outcome", "code", "reason", "exit_code", "applied", "skipped", "failed", "attempt"}
    lines = [line for line in shown.splitlines() if line.startswith("{")]
    return [(sorted(line), {key: line[key] for key in keys & line.keys()}) for line in map(json.loads, lines)]


# Any password in a connection string that is malformed anywhere

passwords = st.text(LETTERS + LETTERS + SIGNS, min_size=4, max_size=24)
templates = st.sampled_from(
    [
        "postgresql://me:{}@127.0.0.1:1/app",
        "postgres://me:{}@127.0.0.1:1,127.0.0.1:2/app?sslmode=disable",
        "postgresql://:{}@[::1]:1",
        "postgresql://127.0.0.1:1/app?user=me&password={}&sslmode=disable",
        "host=127.0.0.1 port=1 user=me password={} dbname=app",
        "password={} host=/nowhere",
        # forms that dsn_hints recognises
        "postgresql://me:{}@127.0.0.1:1/app?schema=public&pool_timeout=1",
        "postgresql://me:{}@:1/app",
        "postgresql://me:{}@2001:db8::1:1/app",
        "jdbc:postgresql://127.0.0.1:1/app?user=me&password={}",
        "DATABASE_URL='postgresql://me:{}@127.0.0.1:1/app'",
        "Host=127.0.0.1;Username=me;Password={}",
        "host= port=1 password={}",
        "host=127.0.0.1 port=1 sslmode=no-verify password={} schema=app",
    ]
)
writings = st.sampled_from([encoded, quoted, str, quote, lambda text: encoded(text).lower()])
breakages = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 3), st.sampled_from([*SIGNS, "%00", "%", "\0", "::", "//", "@@", ""])),
    max_size=2,
)


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(templates, passwords, writings, breakages)
def test_no_malformed_string_leaks_any_password(
    place: Place, template: str, password: str, write: Any, breakage: list[tuple[int, int, str]]
) -> None:
    dsn = template.format(write(password))
    for at, length, text in breakage:  # libpq may then read a part of the password as something else
        dsn = dsn[:at] + text + dsn[at + length :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "COMMANDS", plant(f"{dsn} {dsn!r} {json.dumps(dsn)}"))
        for command in ("migrate", "check"):
            assert leaks(place.main((command,), dsn), dsn, password) == []
    assert leaks(refusal_of(dsn), dsn, password) == []


def refusal_of(dsn: str) -> str:
    try:
        create_db(dsn).close()
    except StorageError as error:
        return all_of(error)
    return ""


# In separate processes

SAMPLE = sorted(random.Random(30).sample(sorted(CASES), 12))  # noqa: S311


@pytest.mark.parametrize("name", SAMPLE, ids=ascii)
def test_no_stream_of_a_process_contains_a_part_of_the_password(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (tmp_path / "migrations").mkdir()
    for file, text in case.files.items():
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o600)
    dsn = case.dsn.replace("{dir}", str(tmp_path))
    if "\0" in dsn:
        pytest.skip("an environment variable cannot contain a NUL byte")
    variables = {key: value.replace("{dir}", str(tmp_path)) for key, value in case.variables.items()}
    if not names_only_loopback(dsn) and not case.files:
        variables["MIGRATE_RETRIES"] = "none"  # ends the run before it can connect
    variables |= {"DATABASE_URL": dsn, "MIGRATIONS_DIR": str(tmp_path / "migrations"), "MIGRATE_WAIT_TIMEOUT": "0"}
    message = tmp_path / "message"
    process = Program({**variables, "MIGRATE_TERMINATION_LOG": str(message)}, tmp_path / "processes").start()
    run = process.finish()
    assert run.exit_code in {2, 3}
    assert leaks(run.stdout + run.stderr + message.read_text(), dsn, case.password) == []
