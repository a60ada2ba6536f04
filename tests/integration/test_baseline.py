"""`baseline` records applied migrations: those in another tool's history, all up to a file, or all."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.histories import BY_ID, DETECT_ONLY, IDS, SQL, flyway_row, prisma_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.histories import OldTool
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Program, Run

FIRST, SECOND, THIRD = 1, 2, 3
BROKEN = [key for key in IDS if BY_ID[key].broken]
WITH_CHECKSUM = [key for key in IDS if BY_ID[key].proof == "checksum"]


def recorded(database: Database) -> list[tuple[Any, ...]]:
    return database.query('SELECT name, checksum IS NOT NULL FROM _migrations ORDER BY name COLLATE "C"')


def recorded_nothing(database: Database) -> bool:
    return database.query("SELECT to_regclass('_migrations')") == [(None,)]


def proofs(run: Run) -> dict[str, str | None]:
    return {event["migration"]: event["proof"] for event in run.named("migration.baselined")}


def states(run: Run) -> list[str]:
    return [event["state"] for event in run.named("migration.status")]


@pytest.mark.parametrize("key", IDS)
def test_applied_migrations_are_recorded_and_only_pending_ones_run(
    key: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[key]
    names = old.write_files(migrations_dir, 3)
    old.make(database, [FIRST, SECOND], *filter(None, [old.stray]))
    foreign = database.query(f"SELECT * FROM {old.table} ORDER BY 1")
    stopped = run()
    assert stopped.exit_code == 2
    assert f"{old.table} (the " in stopped.report["message"]
    assert f"Run pg-predeploy baseline --from {old.name} to record" in stopped.report["message"]
    dry = run("baseline", "--from", old.name, "--dry-run")
    assert (dry.exit_code, proofs(dry)) == (0, dict.fromkeys(names[:2], old.proof))
    assert states(dry) == ["applied", "applied", "pending"]
    assert recorded_nothing(database)
    done = run("baseline", "--from", "auto")
    assert (done.exit_code, proofs(done)) == (0, dict.fromkeys(names[:2], old.proof))
    assert states(done) == ["applied", "applied", "pending"]
    assert [warning["names"] for warning in done.named("migration.unmatched")] == (
        [[old.stray_name]] if old.stray else []
    )
    assert [done.report[field] for field in ("recorded", "applied", "pending")] == [2, 2, 1]
    assert recorded(database) == [(name, True) for name in names[:2]]
    assert database.query("SELECT count(*) FROM t1") == [(1,)]  # nothing ran
    migrated = run()
    assert (migrated.exit_code, migrated.report["applied"], migrated.report["skipped"]) == (0, 1, 2)
    assert database.query("SELECT count(*) FROM t3") == [(1,)]
    assert database.query(f"SELECT * FROM {old.table} ORDER BY 1") == foreign


@pytest.mark.parametrize("key", BROKEN)
def test_a_failed_or_unfinished_migration_in_the_history_is_an_error(
    key: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[key]
    old.write_files(migrations_dir, 2)
    old.make(database, [] if old.one_row else [FIRST], old.broken)
    before = database.query(f"SELECT * FROM {old.table} ORDER BY 1")
    refused = run("baseline", "--from", old.name)
    assert refused.exit_code == 2
    assert old.table in refused.report["message"]
    assert database.query(f"SELECT * FROM {old.table} ORDER BY 1") == before
    assert recorded_nothing(database)


@pytest.mark.parametrize("key", WITH_CHECKSUM)
def test_a_file_changed_after_it_was_applied_is_an_error_and_through_records_it(
    key: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[key]
    names = old.write_files(migrations_dir, 3)
    old.make(database, [FIRST, SECOND])
    migrations_dir.write(names[1], "SELECT 'edited later'")
    before = database.query(f"SELECT * FROM {old.table} ORDER BY 1")
    refused = run("baseline", "--from", old.name)
    assert refused.exit_code == 2
    assert names[1] in refused.report["message"]
    assert "pg-predeploy baseline --through NAME" in refused.report["message"]
    assert database.query(f"SELECT * FROM {old.table} ORDER BY 1") == before
    assert recorded_nothing(database)
    overruled = run("baseline", "--through", names[1])
    assert (overruled.exit_code, proofs(overruled)) == (0, dict.fromkeys(names[:2]))


@pytest.mark.parametrize("key", WITH_CHECKSUM)
@pytest.mark.parametrize("recorded_as", ["LF", "CRLF"])
def test_different_line_endings_do_not_matter(
    key: str, recorded_as: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[key]
    (name,) = old.write_files(migrations_dir, 1)
    database.execute(old.ddl)
    crlf = SQL.format(1).replace("\n", "\r\n").encode()
    text = crlf if recorded_as == "CRLF" else SQL.format(1).encode()
    database.execute(f"INSERT INTO {old.table} {old.columns} VALUES ({old.row(1, name, text)})")
    migrations_dir.write(name, b"\xef\xbb\xbf" + (SQL.format(1).encode() if recorded_as == "CRLF" else crlf))
    assert proofs(run("baseline", "--from", old.name)) == {name: "checksum"}


@pytest.mark.parametrize("key", ["dbmate", "goose", "flyway-3", "prisma", "drizzle-8", "diesel"])
def test_a_history_with_a_gap_is_an_error(
    key: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID[key]
    names = old.write_files(migrations_dir, 4)
    old.make(database, [FIRST, THIRD])
    before = database.query(f"SELECT * FROM {old.table} ORDER BY 1")
    refused = run("baseline", "--from", old.name)
    assert refused.exit_code == 2
    assert f"{names[1]} is still pending in " in refused.report["message"]
    assert f"pg-predeploy baseline --through {names[2]}" in refused.report["message"]
    assert database.query(f"SELECT * FROM {old.table} ORDER BY 1") == before
    assert recorded_nothing(database)


def test_a_gap_caused_only_by_the_sort_order_names_the_setting(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    old = BY_ID["sql-migrate"]
    old.write_files(migrations_dir, 10)
    old.make(database, range(1, 10))
    refused = run("baseline", "--from", "sql-migrate")
    assert refused.exit_code == 2
    assert "10_x.sql is still pending in sql-migrate, but sorts before 9_x.sql" in refused.report["message"]
    assert "MIGRATE_ORDER=numeric" in refused.report["message"]


def flyway(*rows: str) -> tuple[OldTool, tuple[str, ...]]:
    return BY_ID["flyway-3"], rows


def goose(*rows: str) -> tuple[OldTool, tuple[str, ...]]:
    return BY_ID["goose"], rows


def prisma(*rows: str) -> tuple[OldTool, tuple[str, ...]]:
    return BY_ID["prisma"], rows


R_CHECKSUM = 78787420  # Flyway's checksum of "SELECT 1;\n"


@pytest.mark.parametrize(
    ("history", "files", "expected"),
    [
        (flyway(flyway_row(1, "2", "<< Flyway Baseline >>", "BASELINE")), "V1_5__b V1__a V2__c V3__d", 3),
        (flyway(flyway_row(1, "1", "V1__a.sql"), flyway_row(2, "2", "V2__b.sql"),
                flyway_row(3, "2", "U2__b.sql", "UNDO_SQL")), "V1__a V2__b", 1),
        (flyway(flyway_row(1, "1.0", "db/V1__a.sql"), flyway_row(2, "2", "V2__b.sql"),
                flyway_row(3, "2.0", "V2__b.sql", "DELETE")), "V1__a V2__b", 1),
        (flyway(flyway_row(1, "3", "B3__all.sql", "SQL_BASELINE")), "V1__a V2__b V3__c V4__d", 3),
        (flyway(flyway_row(1, "1", "V1__a.sql"), flyway_row(2, None, "R__v.sql")), "R__v V1__a", ["V1__a.sql"]),
        (flyway(flyway_row(1, "1", "V1__a.sql"), flyway_row(2, None, "R__v.sql").replace("12345", str(R_CHECKSUM))),
         "R__v V1__a", ["R__v.sql", "V1__a.sql"]),
        (goose("1, true", "2, true", "2, false"), "1_a 2_b", 1),
        (goose("1, true", "2, false", "2, true"), "01_a 02_b", 2),
        (prisma(prisma_row("1_a", rolled_back="now()", finished="NULL"), prisma_row("1_a", checksum="{1_a}")),
         "1_a 2_b", 1),
        (prisma(prisma_row("1_a", checksum="{1_a}"), prisma_row("2_b", rolled_back="now()")), "1_a 2_b", 1),
    ],
    ids=["flyway baseline", "flyway undo", "flyway delete", "flyway baseline script", "flyway changed repeatable",
         "flyway repeatable", "goose down", "goose down and up", "prisma resolved", "prisma rolled back"],
)  # fmt: skip
def test_rows_are_interpreted_as_the_tool_interprets_them(
    history: tuple[OldTool, tuple[str, ...]],
    files: str,
    expected: int | list[str],
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
) -> None:
    old, rows = history
    names = [f"{name}.sql" for name in files.split()]
    for name in names:
        migrations_dir.write(name, "SELECT 1;\n")
    checksum = sha256(b"SELECT 1;\n").hexdigest()
    old.make(database, [], *(row.replace("{1_a}", checksum) for row in rows))
    done = run("baseline", "--from", old.name)
    assert (done.exit_code, sorted(proofs(done))) == (0, expected if isinstance(expected, list) else names[:expected])


def test_a_name_in_another_unicode_normal_form_is_read(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    text = SQL.format(1).encode()
    migrations_dir.write("0001_cafe\u0301.sql", text)
    database.execute(BY_ID["sqlx"].ddl)
    database.execute(f"INSERT INTO _sqlx_migrations VALUES ({BY_ID['sqlx'].row(1, '', text)})")
    assert proofs(run("baseline", "--from", "sqlx")) == {"0001_caf\u00e9.sql": "checksum"}


def test_auto_does_not_choose_between_two_histories(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    names = BY_ID["goose"].write_files(migrations_dir, 2)
    BY_ID["goose"].make(database, [FIRST])
    BY_ID["diesel"].make(database, [SECOND])
    stopped, unclear = run(), run("baseline", "--from", "auto")
    for refused in (stopped, unclear):
        assert refused.exit_code == 2
        assert "goose_db_version" in refused.report["message"]
        assert "__diesel_schema_migrations" in refused.report["message"]
    assert "--from diesel or --from goose" in unclear.report["message"]
    assert recorded_nothing(database)
    assert list(proofs(run("baseline", "--from", "goose"))) == names[:1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--through 002_usrs.sql", "is not a migration in MIGRATIONS_DIR; the closest is 002_users.sql"),
        ("--through postgres://u:hunter2@h/d", "is not a migration in MIGRATIONS_DIR. Run status"),
        ("--from liquibase", "Choose one of auto, rails, dbmate, golang-migrate"),
        ("--from dbmate", "No dbmate history with rows exists in schema public"),
        ("--from auto", "No migration history with rows exists in schema public"),
        ("--from goose", "public.goose_db_version has no rows"),
        ("--all --dry-run --from goose", "Choose exactly one"),
        ("--dry-run", "Choose exactly one"),
        ("", "Choose exactly one"),
    ],
)
def test_an_invalid_choice_changes_nothing(
    arguments: str, sentence: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("002_users.sql", "SELECT 1")
    BY_ID["goose"].make(database, [])
    refused = run("baseline", *arguments.split())
    assert refused.exit_code == 2
    assert sentence in refused.report["message"]
    assert "hunter2" not in refused.stdout
    assert recorded_nothing(database)


def test_a_history_that_matches_no_file_is_an_error(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("init.sql", "SELECT 1")
    BY_ID["dbmate"].make(database, [FIRST])
    refused = run("baseline", "--from", "dbmate")
    assert (refused.exit_code, recorded_nothing(database)) == (2, True)
    assert "No file in MIGRATIONS_DIR matches a row of public.schema_migrations" in refused.report["message"]


def test_a_file_that_hides_the_folders_is_named(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    (migrations_dir.path / "2024-01-01-000001_x").mkdir()
    migrations_dir.write("2024-01-01-000001_x/up.sql", "SELECT 1")
    migrations_dir.write("data_import.sql", "SELECT 1")
    BY_ID["diesel"].make(database, [FIRST])
    refused = run("baseline", "--from", "diesel")
    assert (refused.exit_code, recorded_nothing(database)) == (2, True)
    assert "not read because MIGRATIONS_DIR itself contains data_import.sql" in refused.report["message"]


def test_two_files_with_the_same_version_are_an_error(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    for name in ("00001_a.sql", "1_b.sql"):
        migrations_dir.write(name, "SELECT 1")
    BY_ID["goose"].make(database, [FIRST])
    refused = run("baseline", "--from", "goose")
    assert (refused.exit_code, recorded_nothing(database)) == (2, True)
    assert "00001_a.sql and 1_b.sql have the same version" in refused.report["message"]


@pytest.mark.parametrize("table", ["new", "protocol", "ours"])
def test_recorded_migrations_are_left_alone(
    table: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """The table as the protocol defines it has no `checksum` column; `baseline` adds the column."""
    for number in (1, 2, 3):
        migrations_dir.write(f"00{number}.sql", f"CREATE TABLE t{number} ()")
    columns = {"protocol": "", "ours": ", checksum text"}
    if table != "new":
        database.execute(
            f"CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now(){columns[table]}); "  # noqa: E501
            "INSERT INTO _migrations VALUES ('001.sql', '2020-01-01')"
        )
    done = run("baseline", "--through", "002.sql")
    expected = ["002.sql"] if table != "new" else ["001.sql", "002.sql"]
    assert (done.exit_code, proofs(done)) == (0, dict.fromkeys(expected))
    assert recorded(database) == [("001.sql", table == "new"), ("002.sql", True)]
    again = run("baseline", "--all")
    assert (again.exit_code, list(proofs(again))) == (0, ["003.sql"])
    assert run("baseline", "--all").report["recorded"] == 0
    assert run().report["skipped"] == 3


def test_a_table_that_the_role_cannot_write_is_a_missing_privilege(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    database.admin_execute(
        "CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()); "
        f"GRANT SELECT ON _migrations TO {database.owner}"
    )
    refused = run("baseline", "--all")
    assert refused.exit_code == 5
    assert database.admin_query("SELECT count(*) FROM _migrations") == [(0,)]


def test_a_baseline_waits_for_a_runner_and_a_runner_for_a_baseline(
    program: Program, database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        baseline = program.start("baseline", "--all")
        baseline.wait_for("lock.waiting")
        runner = program.start()
        runner.wait_for("lock.waiting")
        assert recorded_nothing(database)
        assert program.run("baseline", "--all", "--dry-run").exit_code == 0  # does not wait
        assert program.run("baseline", "--all", MIGRATE_LOCK_WAIT_TIMEOUT="100ms").exit_code == 4
    ends = [baseline.finish(), runner.finish()]
    assert [end.exit_code for end in ends] == [0, 0]
    ran = database.query("SELECT to_regclass('t')") != [(None,)]
    assert ends[1].report["applied"] == int(ran)
    assert ends[0].report["recorded"] == int(not ran)
    assert recorded(database) == [("001.sql", True)]


def test_a_lost_connection_records_nothing_or_everything(
    program: Program, database: Database, migrations_dir: MigrationsDir
) -> None:
    for number in range(2):
        migrations_dir.write(f"{number}.sql", "SELECT 1")
    with database.connect(autocommit=False) as conn:  # holds the table, so that the INSERT waits
        conn.execute("CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL, checksum text)")
        conn.execute("ALTER TABLE _migrations ALTER applied_at SET DEFAULT now()")
        conn.commit()
        conn.execute("LOCK _migrations IN SHARE MODE")
        baseline = program.start("baseline", "--all")
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not (pids := database.query(waiting)):
            time.sleep(0.05)
        database.admin_execute(f"SELECT pg_terminate_backend({pids[0][0]})")
        lost = baseline.finish()
    assert (lost.exit_code, lost.report["outcome"]) == (6, "connection_lost")
    assert recorded(database) == []
    assert program.run("baseline", "--all").exit_code == 0


def test_baseline_works_through_a_pooler_in_transaction_mode(
    program: Program, database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    old = BY_ID["sqlx"]
    names = old.write_files(migrations_dir, 2)
    old.make(database, [FIRST])
    pooled = database.dsn_at(pgbouncer.port)
    assert program.run(DATABASE_URL=pooled).exit_code == 2
    done = program.run("baseline", "--from", "auto", DATABASE_URL=pooled)
    assert (done.exit_code, list(proofs(done))) == (0, names[:1])
    assert program.run(DATABASE_URL=pooled).report["applied"] == 1


def test_a_history_without_sql_files_is_named_with_the_command_to_run(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "CREATE TABLE t2 ()")
    database.execute(DETECT_ONLY["django"][1])
    assert run().exit_code == 2
    assert run("baseline", "--through", "001.sql").exit_code == 0
    assert run().report["applied"] == 1
