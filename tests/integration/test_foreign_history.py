"""On a database that another tool has migrated, no migration runs a second time, and the log names the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from predeploy import StorageError, run_migrations
from predeploy.apply import migrator
from predeploy.apply.migrations_table import read_rows
from predeploy.lock.key import LOCK_KEY
from tests.support.catalog import snapshot
from tests.support.histories import BY_ID, DETECT_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg_pool import ConnectionPool

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Program, Run

TABLE = "CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
WARNINGS = {"schema.not_empty", "schema.foreign_history"}


def warnings(run: Run) -> list[str]:
    return [event["event"] for event in run.events if event["event"] in WARNINGS]


@pytest.mark.parametrize("tool", ["golang-migrate", "supabase"])
def test_a_history_with_rows_stops_the_run_before_anything_happens(
    tool: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[tool]
    old.write_files(migrations_dir, 3)
    old.make(database, [1, 2])
    before = snapshot(database)
    stopped = run()
    assert stopped.exit_code == 2
    assert old.table in stopped.report["message"]
    assert f"Run pg-predeploy baseline --from {old.name} to record" in stopped.report["message"]
    assert stopped.report["code"] == "STORAGE_CONFIGURATION"
    assert snapshot(database) == before  # _migrations was not created either


@pytest.mark.parametrize("name", ["_migrations", "Old Migrations"])
@pytest.mark.parametrize("tool", ["goose", "golang-migrate", "flyway-3", "node-pg-migrate"])
def test_a_history_with_another_name_stops_the_run_and_can_be_imported(
    tool: str, name: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[tool]
    names = old.write_files(migrations_dir, 3)
    old.make(database, [1, 2])
    database.execute(f'ALTER TABLE {old.table} RENAME TO "{name}"')
    before = snapshot(database)
    if name == "_migrations":
        taken = run()
        assert taken.exit_code == 2
        assert "Set MIGRATE_TABLE to another name" in taken.report["message"]
        assert "run pg-predeploy baseline before migrate" in taken.report["message"]
    stopped = run(MIGRATE_TABLE="done")
    assert stopped.exit_code == 2
    assert f"public.{name} (the " in stopped.report["message"]
    assert f"baseline --from {old.name}" in stopped.report["message"]
    assert snapshot(database) == before
    assert run("baseline", "--from", "auto", MIGRATE_TABLE="done").exit_code == 0
    assert database.query('SELECT name FROM done ORDER BY name COLLATE "C"') == [(name,) for name in names[:2]]
    migrated = run(MIGRATE_TABLE="done")
    assert (migrated.exit_code, migrated.report["applied"]) == (0, 1)


@pytest.mark.parametrize("columns", ["id int, dirty boolean", "version bigint, dirty boolean, note text"])
def test_a_table_of_the_application_is_not_taken_for_a_history(
    columns: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.execute(f"CREATE TABLE rooms ({columns}); INSERT INTO rooms VALUES (1, true)")
    assert run().exit_code == 0


@pytest.mark.parametrize("tool", DETECT_ONLY)
def test_a_history_without_files_is_recognized_too(
    tool: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    table, ddl = DETECT_ONLY[tool]
    migrations_dir.write("001.sql", "SELECT 1")
    database.execute(ddl)
    before = snapshot(database)
    for stopped in (run(), run("baseline", "--from", tool), run("baseline", "--from", "auto")):
        assert stopped.exit_code == 2
        assert table in stopped.report["message"]
        assert "pg-predeploy baseline --through NAME" in stopped.report["message"]
    assert snapshot(database) == before


@pytest.mark.parametrize(
    ("command", "exit_code"), [("check", 2), ("plan", 2), ("plan --rehearse", 2), ("status", 0)], ids=str
)
def test_other_commands_report_the_history_too(
    command: str, exit_code: int, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID["dbmate"]
    old.write_files(migrations_dir, 2)
    old.make(database, [1])
    before = snapshot(database)
    found = run(*command.split())
    said = found.named("schema.foreign_history") or [found.report]
    assert found.exit_code == exit_code
    assert "public.schema_migrations (the dbmate history)" in said[0]["message"]
    assert "pg-predeploy baseline --from dbmate" in said[0]["message"]
    assert snapshot(database) == before


def test_the_setting_and_the_argument_disable_the_check(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, db: ConnectionPool[Any]
) -> None:
    old = BY_ID["dbmate"]
    old.make(database, [8])
    old.write_files(migrations_dir, 2)
    with pytest.raises(StorageError, match="baseline --from dbmate") as caught:
        run_migrations(db, migrations_dir.path)
    assert caught.value.exit_code == 2
    with pytest.raises(ValueError, match="foreign_history"):
        run_migrations(db, migrations_dir.path, foreign_history="Ignore")
    assert run("check", MIGRATE_FOREIGN_HISTORY="ignore").exit_code == 10
    migrated = run(MIGRATE_FOREIGN_HISTORY="ignore")
    assert (migrated.exit_code, migrated.report["applied"]) == (0, 2)
    database.execute("DROP TABLE t1, t2, _migrations")
    assert run_migrations(db, migrations_dir.path, foreign_history="ignore").applied == old.names(2)


@pytest.mark.parametrize("rows", ["own", "none"])
def test_an_empty_history_does_not_stop_the_run(
    rows: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """Rows that a tool creates for its own use, such as goose's version 0, do not stand for a file."""
    for tool in ("goose", "flyway-3", "dbmate") if rows == "own" else ("golang-migrate", "prisma"):
        BY_ID[tool].make(database, [])
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("ddl", "tables"),
    [
        ("CREATE TABLE a (); CREATE TABLE b (id int) PARTITION BY LIST (id); CREATE TABLE c PARTITION OF b DEFAULT", 2),
        ("CREATE TABLE schema_migrations (version bigint, inserted_at timestamp); INSERT INTO schema_migrations VALUES (1)", 1),  # noqa: E501
        (TABLE, 0),
        ("CREATE SCHEMA other; CREATE TABLE other.schema_migrations (version varchar(255) PRIMARY KEY); INSERT INTO other.schema_migrations VALUES ('1')", 0),  # noqa: E501
        ("CREATE VIEW v AS SELECT 1", 0),
    ],
    ids=["tables", "another shape", "only _migrations", "another schema", "a view"],
)  # fmt: skip
def test_a_schema_that_is_not_empty_causes_one_warning(
    ddl: str, tables: int, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.execute(ddl)
    expected = ["schema.not_empty"] if tables else []
    for command in ("plan", "plan --rehearse", "status", "check", "migrate"):
        found = run(*command.split())
        assert found.exit_code == (10 if command == "check" else 0)
        assert warnings(found) == expected, command
        assert [event["tables"] for event in found.named("schema.not_empty")] == ([tables] if tables else [])
    migrations_dir.write("002.sql", "CREATE TABLE u ()")
    for command in ("plan", "status", "check", "migrate"):  # something is recorded now
        assert warnings(run(*command.split())) == []


def test_a_history_that_cannot_be_read_is_a_missing_privilege(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.admin_execute(
        "CREATE SCHEMA drizzle; "
        "CREATE TABLE drizzle.__drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint); "
        "INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('x', 1)"
    )
    for arguments in ([], ["check"], ["baseline", "--from", "auto"]):
        refused = run(*arguments)
        assert refused.exit_code == 5
        assert "GRANT SELECT ON drizzle.__drizzle_migrations" in refused.report["message"]
    database.admin_execute(
        f"GRANT USAGE ON SCHEMA drizzle TO {database.owner}; "
        f"GRANT SELECT ON drizzle.__drizzle_migrations TO {database.owner}; "
        "ALTER TABLE drizzle.__drizzle_migrations ENABLE ROW LEVEL SECURITY"
    )
    hidden = run()
    assert hidden.exit_code == 5
    assert "Row-level security" in hidden.report["message"]
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]
    status = run("status")
    assert (status.exit_code, warnings(status)) == (0, ["schema.foreign_history"])
    assert run(MIGRATE_FOREIGN_HISTORY="ignore").exit_code == 0


@pytest.mark.parametrize("meanwhile", ["history", "baseline"])
def test_the_check_is_made_under_the_lock(
    meanwhile: str, program: Program, database: Database, migrations_dir: MigrationsDir
) -> None:
    """The check sees changes made while the run waits for the lock: a new history, or new rows in `_migrations`."""
    old = BY_ID["dbmate"]
    old.write_files(migrations_dir, 2)
    if meanwhile == "baseline":
        old.make(database, [1])
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        waiting = program.start()
        waiting.wait_for("lock.waiting")
        if meanwhile == "baseline":
            database.execute(TABLE)
            database.execute(f"INSERT INTO _migrations (name) VALUES ('{old.names(1)[0]}')")
        else:
            old.make(database, [1])
    ended = waiting.finish()
    if meanwhile == "baseline":
        assert (ended.exit_code, ended.report["applied"], ended.report["skipped"]) == (0, 1, 1)
    else:
        assert (ended.exit_code, ended.report["applied"]) == (2, 0)
        assert database.query("SELECT to_regclass('_migrations')") == [(None,)]


def test_a_run_with_recorded_migrations_sends_no_further_query(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    db: ConnectionPool[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    assert run().exit_code == 0
    BY_ID["dbmate"].make(database, [9])  # another application starts to use dbmate
    migrations_dir.write("002.sql", "CREATE TABLE u ()")
    reads: list[Any] = []

    def count(*args: Any) -> Any:
        reads.append(args)
        return read_rows(*args)

    monkeypatch.setattr(migrator, "read_rows", count)
    assert run_migrations(db, migrations_dir.path).applied == ["002.sql"]
    assert len(reads) == 1  # before the lock; under the lock, the table reads its rows itself
