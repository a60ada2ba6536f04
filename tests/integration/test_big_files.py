"""A file too big to keep in memory is read twice and sent in chunks, and is applied completely or not at all."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.migrations.chunks import CHUNK_CHARS
from predeploy.migrations.directory import MAX_KEPT_BYTES
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

ROWS = 5000  # each row is a line of 1 kB
AT = 4001  # the number of the line and statement that is replaced
LOCK_KEY = 48756301
WAITING = "SELECT FROM pg_locks WHERE relation = 'effects'::regclass AND NOT granted"


def insert(number: int) -> str:
    return f"INSERT INTO effects VALUES ({number}, '{'x' * 1000}');"


def write_big(migrations_dir: MigrationsDir, at: str = "", rows: int = ROWS) -> Path:
    """Write 001.sql with one statement per line, one of them replaced, and 002.sql, which is applied in any case."""
    lines = [insert(number) for number in range(1, rows + 1)]
    lines[AT - 1] = at or lines[AT - 1]
    migrations_dir.write("002.sql", "CREATE TABLE after_it ()")
    path = migrations_dir.write("001.sql", "\n".join(lines))
    assert path.stat().st_size > MAX_KEPT_BYTES
    return path


@pytest.fixture(autouse=True)
def _effects(database: Database) -> None:
    database.execute("CREATE TABLE effects (n int PRIMARY KEY, filler text)")


def assert_nothing_applied(database: Database) -> None:
    assert database.query("SELECT count(*) FROM effects") == [(0,)]
    assert database.query("SELECT name FROM _migrations") == [("002.sql",)]
    assert database.query("SELECT to_regclass('after_it')::text") == [("after_it",)]


def test_a_big_file_is_applied_completely_and_once(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    write_big(migrations_dir)
    ended = run()
    assert [e["migration"] for e in ended.named("migration.applied")] == ["001.sql", "002.sql"]
    assert database.query("SELECT count(*), sum(n), min(length(filler)) FROM effects") == [
        (ROWS, ROWS * (ROWS + 1) // 2, 1000)
    ]
    again = run()
    assert (again.exit_code, again.report["skipped"], again.named("migration.changed")) == (0, 2, [])


FAILING: dict[str, tuple[str, dict[str, Any]]] = {
    "syntax": ("  SELEC 1;", {"sqlstate": "42601", "column": 3, "statement": AT, "command": None}),
    "run time": (insert(1), {"sqlstate": "23505", "statement": AT, "command": "INSERT", "table": "effects"}),
    "name": ("SELECT 1, nothing;", {"sqlstate": "42703", "column": 11, "statement": AT, "command": "SELECT"}),
    "block": ("DO $$BEGIN PERFORM 1 / 0; END$$;", {"sqlstate": "22012", "statement": AT, "command": "DO"}),
    "COMMIT": ("COMMIT;", {"sqlstate": None, "statement": None}),
    "a quote": ("SELECT $body$;", {"sqlstate": None}),
}


@pytest.mark.parametrize("at", FAILING)
def test_an_error_in_the_last_third_is_logged_with_its_line_and_nothing_is_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, at: str
) -> None:
    text, expected = FAILING[at]
    write_big(migrations_dir, text)
    ended = run()
    (failed,) = ended.named("migration.failed")
    assert failed["line"] == AT
    assert {key: failed.get(key) for key in expected} == expected
    assert "statements" not in failed  # the statements have not been counted
    assert failed["message"].startswith(f"Failed: 001.sql:{AT}:")
    assert (ended.exit_code, ended.report["applied"]) == (1, 1)
    assert_nothing_applied(database)


def test_an_error_in_the_running_chunk_precedes_a_rejection_in_the_next_one(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    path = write_big(migrations_dir, insert(1))
    lines = path.read_text().split("\n")
    lines[AT + CHUNK_CHARS // len(insert(AT))] = "COMMIT;"
    path.write_text("\n".join(lines))
    ended = run()
    (failed,) = ended.named("migration.failed")
    assert (failed["sqlstate"], failed["line"], failed["statement"]) == ("23505", AT, AT)
    assert ended.named("connection.lost") == []
    assert_nothing_applied(database)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_one_chunk_is_read_ahead(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    path = write_big(migrations_dir)
    with database.connect() as conn:
        conn.execute("BEGIN; LOCK TABLE effects")
        process = start()
        eventually(lambda: database.query(WAITING))
        eventually(lambda: read_of(path, process.pid) > 1.5 * CHUNK_CHARS)
        time.sleep(0.3)
        assert read_of(path, process.pid) < 3 * CHUNK_CHARS
    assert process.finish().report["applied"] == 2


def read_of(path: Path, pid: int) -> int:
    """Return how far a process has read its open file."""
    (number,) = [fd.name for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.resolve() == path.resolve()]
    return int(Path(f"/proc/{pid}/fdinfo/{number}").read_text().split()[1])


def test_progress_of_the_running_chunk_is_logged_while_the_next_one_is_read(
    start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    write_big(migrations_dir, "SELECT pg_sleep(60);")
    process = start(MIGRATE_WATCH_AFTER="1")
    logged = process.wait_for("migration.progress")
    assert AT - CHUNK_CHARS // len(insert(AT)) < logged["statement_at_least"] <= AT
    process.terminate()
    process.finish()


def test_an_error_in_the_last_chunk_is_logged_with_the_number_of_statements(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    path = write_big(migrations_dir)
    path.write_text(f"{path.read_text()}\n\n  SELEC 1; -- the end")
    (failed,) = run().named("migration.failed")
    assert (failed["line"], failed["column"]) == (ROWS + 2, 3)
    assert (failed["statement"], failed["statements"]) == (ROWS + 1, ROWS + 1)
    assert_nothing_applied(database)


def test_a_file_that_fails_at_commit_is_rolled_back(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("ALTER TABLE effects ADD FOREIGN KEY (n) REFERENCES effects DEFERRABLE INITIALLY DEFERRED")
    database.execute("CREATE TABLE parents (n int PRIMARY KEY)")
    database.execute("ALTER TABLE effects ADD FOREIGN KEY (n) REFERENCES parents DEFERRABLE INITIALLY DEFERRED")
    write_big(migrations_dir)
    (failed,) = run().named("migration.failed")
    assert failed["sqlstate"] == "23503"
    assert_nothing_applied(database)


@pytest.mark.parametrize(
    ("between", "old", "new"),
    [
        (False, "(5000,", "(5001,"),
        (True, "(5000,", "(5001,"),
        (True, insert(4999), ""),
        (True, insert(4999), insert(4999) + insert(5001)),
    ],
    ids=["before it is sent", "between its chunks", "shorter", "longer"],
)
def test_a_file_that_is_changed_after_it_was_read_is_not_applied(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    old: str,
    new: str,
    *,
    between: bool,
) -> None:
    path = write_big(migrations_dir)
    changed = path.read_text().replace(old, new)
    with database.connect() as conn:
        conn.execute("BEGIN; LOCK TABLE effects" if between else f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        if between:
            eventually(lambda: database.query(WAITING))
        else:
            process.wait_for("lock.waiting")
        path.write_text(changed)
    ended = process.finish()
    (failed,) = ended.named("migration.failed")
    assert failed["error"] == "the file has changed since it was read; nothing was applied"
    assert ended.exit_code == 1
    assert_nothing_applied(database)


def test_a_file_that_was_removed_before_it_is_sent_fails(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    path = write_big(migrations_dir)
    with database.connect() as conn:
        conn.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        process.wait_for("lock.waiting")
        path.unlink()
    (failed,) = process.finish().named("migration.failed")
    assert failed["error"] == "the file cannot be read: No such file or directory"
    assert_nothing_applied(database)


def test_a_retry_starts_from_the_beginning_of_the_file(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE gate ()")
    write_big(migrations_dir, f"LOCK TABLE gate; {insert(AT)}")
    with database.connect() as conn:
        conn.execute("BEGIN; LOCK TABLE gate")
        process = start(MIGRATE_LOCK_TIMEOUT="200ms")
        assert f"line {AT})" in process.wait_for("migration.retrying")["message"]
    assert process.finish().report["applied"] == 2
    assert database.query("SELECT count(*), count(DISTINCT n) FROM effects") == [(ROWS, ROWS)]


def test_no_secret_in_a_late_chunk_is_logged(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} CREATEROLE")
    notice = "DO $$BEGIN RAISE NOTICE 'it is zqxvjknotice'; END$$"
    where = "COMMENT ON TABLE effects IS 'PASSWORD ''zqxvjknotice'''"
    write_big(migrations_dir, f"{notice}; {where}; ALTER ROLE zqxvjkrole PASSWORD 'zqxvjkrole';")
    ended = run()
    assert [line["message"] for line in ended.named("postgres.notice")] == ["NOTICE from 001.sql: it is ***"]
    (failed,) = ended.named("migration.failed")
    assert (failed["error"], failed["sqlstate"], failed["line"]) == ('role "***" does not exist', "42704", AT)
    assert "zqxvjk" not in ended.stdout
    assert_nothing_applied(database)


def test_a_trigger_that_a_middle_chunk_creates_on_the_table_is_detected(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    swallow = (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER t BEFORE INSERT ON _migrations FOR EACH ROW EXECUTE FUNCTION f();"
    )
    write_big(migrations_dir, swallow)
    ended = run()
    assert [e["migration"] for e in ended.named("migration.applied")] == ["001.sql"]
    (failed,) = ended.named("migration.failed")
    assert failed["migration"] == "002.sql"
    assert database.query("SELECT name FROM _migrations") == [("001.sql",)]
    assert database.query("SELECT to_regclass('after_it')") == [(None,)]


def test_a_row_that_a_middle_chunk_removes_is_detected_even_if_the_last_chunk_is_short(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    path = write_big(migrations_dir, "DO $$BEGIN EXECUTE 'DELETE FROM _migra' || 'tions'; END$$;")
    text = path.read_text()
    path.write_text(" " * (-len(text) % CHUNK_CHARS + 500) + text)
    (failed,) = run().named("migration.failed")
    assert failed["error"].startswith("the migration, a trigger or a rule removed its row from _migrations")
    assert_nothing_applied(database)


def test_messages_are_bounded(run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir) -> None:
    database.execute("CREATE TABLE sizes (size int)")
    size = f"INSERT INTO sizes SELECT length(current_query()) /* {'x' * 1000} */;\n"
    assert migrations_dir.write("001.sql", size * ROWS).stat().st_size > MAX_KEPT_BYTES
    assert run().report["applied"] == 1
    ((count, most),) = database.query("SELECT count(DISTINCT size), max(size) FROM sizes")
    assert 2 < count < 10
    assert CHUNK_CHARS / 2 < most < 1.1 * CHUNK_CHARS


def test_a_big_file_is_planned_and_rehearsed(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    write_big(migrations_dir)
    planned = run("plan").named("migration.planned")[0]
    assert (planned["statements"], planned["kinds"]) == (ROWS, {"INSERT": ROWS})
    assert planned["locks"] == [{"relation": "public.effects", "mode": "ROW EXCLUSIVE"}]
    rehearsed = run("plan", "--rehearse")
    assert [e["migration"] for e in rehearsed.named("migration.rehearsed")] == ["001.sql", "002.sql"]
    assert database.query("SELECT count(*) FROM effects") == [(0,)]


@pytest.mark.parametrize("text", ["COMMIT;", insert(1)])
def test_a_rehearsal_finds_an_error_in_a_big_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, text: str
) -> None:
    write_big(migrations_dir, text)
    rehearsed = run("plan", "--rehearse")
    assert [(e["migration"], e["line"]) for e in rehearsed.named("migration.failed")] == [("001.sql", AT)]
    assert [e["migration"] for e in rehearsed.named("migration.rehearsed")] == ["002.sql"]
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]


def test_a_failed_big_file_is_named_in_the_advice_if_it_mentions_the_missing_object(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("000.sql", "SELEC 1")
    write_big(migrations_dir, "CREATE TABLE made_by_it (); SELECT 1 / 0;")
    migrations_dir.write("003.sql", "SELECT FROM made_by_it")
    (*_, failed) = run().named("migration.failed")
    assert failed["advice"] == "Fix 001.sql first; this error is probably caused by its failure."


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_file(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    most = []
    for rows in (ROWS, 4 * ROWS):
        database.execute("TRUNCATE effects; DROP TABLE IF EXISTS _migrations")
        write_big(migrations_dir, rows=rows)
        migrations_dir.write("002.sql", "LOCK TABLE gate")
        database.execute("DROP TABLE IF EXISTS gate; CREATE TABLE gate ()")
        with database.connect() as conn:
            conn.execute("BEGIN; LOCK TABLE gate")
            process = start()
            process.wait_for("migration.applied", timeout=60)
            most.append(peak_kb(process.pid))
        assert process.finish().report["applied"] == 2
    print(most)
    assert most[1] - most[0] < 4 << 10, f"a file that is 15 MB larger takes {most[1] - most[0]} kB more memory"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("directive", ["", pytest.param("-- migrate:no-transaction\n", marks=pytest.mark.session)])
@pytest.mark.parametrize(
    "query",
    ["SELECT generate_series(1, 3000000)", "SELECT repeat('x', 1000000) FROM generate_series(1, 100)"],
    ids=["many rows", "large rows"],
)
def test_rows_that_a_migration_returns_are_not_kept_in_memory(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, query: str, directive: str
) -> None:
    migrations_dir.write("001.sql", f"{directive}{query}; CREATE TABLE t ()")
    migrations_dir.write("002.sql", f"{directive}TABLE gate")
    database.execute("CREATE TABLE gate ()")
    with database.connect() as conn:
        conn.execute("BEGIN; LOCK TABLE gate")
        process = start()
        process.wait_for("migration.applied", timeout=60)
        peak = peak_kb(process.pid)
    assert process.finish().report["applied"] == 2
    assert peak < 64 << 10


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
