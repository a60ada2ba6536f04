"""The error for a refused claim names the cause; a migration is skipped only if a row of exactly its name exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Event, Run

TABLE = "CREATE TABLE _migrations (name {} PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now(), checksum text)"
TRIGGER = (
    "CREATE FUNCTION intercept() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {} END$$;"
    "CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON _migrations FOR EACH ROW EXECUTE FUNCTION intercept()"
)
NO_TRANSACTION = "-- migrate:no-transaction\n"
REPEATABLE = "-- migrate:repeatable\n"
ROW_SECURITY = "ALTER TABLE _migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
EITHER = pytest.mark.parametrize("mark", ["", NO_TRANSACTION], ids=["transaction", "no transaction"])
NEEDS_A_SESSION = pytest.mark.session("runs a file outside of a transaction")


def failure(run: Run) -> Event:
    (event,) = run.named("migration.failed")
    return event


@pytest.fixture
def text_table(database: Database) -> Database:
    database.execute(TABLE.format("text"))
    return database


# What a superuser runs first, the statements that create the table, and a part of the advice.
ANY_CASE = "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
CASE_INSENSITIVE = {
    "citext": ("CREATE EXTENSION citext", TABLE.format("citext"), "ALTER COLUMN name TYPE text"),
    "collation": (ANY_CASE, TABLE.format("text COLLATE any_case"), "ALTER COLUMN name TYPE text"),
    "index": (
        "",
        f"{TABLE.format('text')}; CREATE UNIQUE INDEX any_case ON _migrations (lower(name))",
        "drop the index any_case",
    ),
}


@pytest.mark.parametrize("case", CASE_INSENSITIVE)
@EITHER
@NEEDS_A_SESSION
def test_a_name_that_differs_only_in_case_is_not_counted_as_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, case: str, mark: str
) -> None:
    prepare, setup, advice = CASE_INSENSITIVE[case]
    try:
        database.admin_execute(prepare)
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as missing:
        pytest.skip(f"this server lacks an extension or ICU: {missing}")
    database.execute(setup)
    migrations_dir.write("A.sql", "CREATE TABLE big_a ()")
    migrations_dir.write("a.sql", f"{mark}CREATE TABLE small_a ()")
    ended = run()
    failed = failure(ended)
    assert (ended.exit_code, ended.report["applied"], ended.named("migration.skipped")) == (1, 1, [])
    assert failed["migration"] == "a.sql"
    assert "is case-insensitive, and A.sql is already recorded" in failed["error"]
    assert advice in failed["advice"]
    assert ("have taken effect" in failed.get("hint", "")) == bool(mark)
    assert database.query("SELECT name::text FROM _migrations") == [("A.sql",)]
    assert database.query("SELECT to_regclass('small_a') IS NULL") == [(not mark,)]


@pytest.mark.parametrize("kind", ["varchar(20)", "name"])
def test_a_name_that_is_too_long_for_its_column_is_reported_with_both_lengths(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, kind: str
) -> None:
    database.execute(TABLE.format(kind))
    length = 21 if kind != "name" else 64
    migrations_dir.write("0.sql", "CREATE TABLE kept ()")
    migrations_dir.write("1".rjust(length - 4, "0") + ".sql", "CREATE TABLE gone ()")
    for _ in range(2):
        ended = run()
        failed = failure(ended)
        assert (ended.exit_code, ended.named("migration.skipped")) == (1, [])
        assert f"holds at most {length - 1} " in failed["error"]
        assert f"this name has {length}" in failed["error"]
        assert "ALTER COLUMN name TYPE text" in failed["advice"]
        assert "line" not in failed
    assert database.query("SELECT to_regclass('gone')") == [(None,)]
    database.execute("ALTER TABLE _migrations ALTER COLUMN name TYPE text")
    assert run().report["applied"] == 1


def test_another_unique_constraint_is_named(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir
) -> None:
    text_table.execute("ALTER TABLE _migrations ADD CONSTRAINT one_content UNIQUE (checksum)")
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT 1")
    ended = run()
    failed = failure(ended)
    assert (ended.report["applied"], ended.named("migration.skipped")) == (1, [])
    assert 'violates unique constraint "one_content"' in failed["error"]
    assert failed["advice"] == "Drop the constraint or index one_content: only the name column may be unique."


def test_another_not_null_column_is_named(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir
) -> None:
    text_table.execute("ALTER TABLE _migrations ADD version int NOT NULL")
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert "column version of public._migrations is NOT NULL" in failure(ended)["error"]
    assert 'ALTER COLUMN "version" DROP NOT NULL' in failure(ended)["advice"]


# What the trigger does, and what the error contains.
TRIGGERS = {
    "returns NULL": ("RETURN NULL;", "row is missing from public._migrations, which has the trigger audit"),
    "raises": ("RAISE 'not today';", "the migration's row was rejected: not today"),
    "divides by zero": ("PERFORM 1/0; RETURN NEW;", "the migration's row was rejected: division by zero"),
    "violates uniqueness": ("INSERT INTO once VALUES (1); RETURN NEW;", "row was rejected: duplicate key value"),
    "removes the name": ("NEW.name = NULL; RETURN NEW;", 'row was rejected: null value in column "name"'),
    "changes the name": ("NEW.name = lower(NEW.name); RETURN NEW;", "row is missing"),
}


@pytest.mark.parametrize("case", TRIGGERS)
@EITHER
@NEEDS_A_SESSION
def test_a_trigger_on_the_table_is_named(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir, case: str, mark: str
) -> None:
    body, error = TRIGGERS[case]
    text_table.execute(f"CREATE TABLE once (n int PRIMARY KEY); INSERT INTO once VALUES (1); {TRIGGER.format(body)}")
    migrations_dir.write("A.sql", f"{mark}CREATE TABLE t ()")
    ended = run()
    failed = failure(ended)
    assert (ended.exit_code, ended.report["applied"], ended.named("migration.skipped")) == (1, 0, [])
    assert error in failed["error"]
    assert "trigger audit" in failed["advice"]
    assert ("have taken effect" in failed.get("hint", "")) == bool(mark)
    assert text_table.query("SELECT to_regclass('t') IS NULL") == [(not mark,)]


def test_a_trigger_that_discards_an_update_is_named(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("view.sql", f"{REPEATABLE}CREATE OR REPLACE VIEW v AS SELECT 1 AS a")
    assert run().report["applied"] == 1
    text_table.execute(TRIGGER.format("RETURN NULL;"))
    migrations_dir.write("view.sql", f"{REPEATABLE}CREATE OR REPLACE VIEW v AS SELECT 2 AS a")
    ended = run()
    assert (ended.exit_code, ended.named("migration.skipped")) == (1, [])
    assert "the UPDATE of public._migrations changed no row" in failure(ended)["error"]
    assert "trigger audit" in failure(ended)["advice"]


# The policy, and a part of the run's message or of the migration's error.
POLICIES = {
    "no policy": ("", "new row violates row-level security policy"),
    "may not read": ("CREATE POLICY w ON _migrations FOR INSERT WITH CHECK (true)", "row security"),
}


@pytest.mark.parametrize("case", POLICIES)
def test_row_security_is_named(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir, case: str
) -> None:
    policy, says = POLICIES[case]
    text_table.execute(f"{ROW_SECURITY}{policy}")
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    ended = run()
    text = ended.report["message"] if case == "no policy" else failure(ended)["error"]
    assert (ended.exit_code, says in text) == (5 if case == "no policy" else 1, True)
    assert "DISABLE ROW LEVEL SECURITY" in (text if case == "no policy" else failure(ended)["advice"])
    assert "GRANT" not in ended.stdout
    assert text_table.query("SELECT to_regclass('t')") == [(None,)]


def test_a_row_that_row_security_hides_is_not_counted_as_applied_by_another_runner(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    assert run().report["applied"] == 1
    text_table.execute(f"{ROW_SECURITY}CREATE POLICY w ON _migrations FOR INSERT WITH CHECK (true)")
    ended = run()
    assert (ended.exit_code, ended.named("migration.skipped")) == (5, [])
    assert "Row security hides rows of public._migrations" in ended.report["message"]
    assert "DISABLE ROW LEVEL SECURITY" in ended.report["message"]
    text_table.execute("ALTER TABLE _migrations DISABLE ROW LEVEL SECURITY")
    assert run().report["skipped"] == 1


# By what the role lacks: the setup, the server's message and the remedy.
PRIVILEGES = {
    "insert": (
        "GRANT SELECT ON _migrations TO {owner}",
        "permission denied for table _migrations (SQLSTATE 42501)",
        'Run GRANT SELECT, INSERT ON "public"."_migrations" for the role',
    ),
    "read": ("", "permission denied for table _migrations (SQLSTATE 42501)", "Run GRANT SELECT, INSERT ON _migrations"),
    "of a trigger": (
        "GRANT SELECT, INSERT ON _migrations TO {owner}; CREATE TABLE audited ();"
        + TRIGGER.format("INSERT INTO audited DEFAULT VALUES; RETURN NEW;"),
        "permission denied for table audited (SQLSTATE 42501)",
        "Fix the trigger audit on the table",
    ),
}


@pytest.mark.parametrize("case", PRIVILEGES)
def test_a_missing_privilege_is_reported_with_the_servers_message_and_a_grant_if_it_helps(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, case: str
) -> None:
    setup, sentence, remedy = PRIVILEGES[case]
    database.admin_execute(f"{TABLE.format('text')}; {setup.format(owner=database.owner)}")
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert (ended.exit_code, ended.report["failed"]) == (5, 0)
    assert sentence in ended.report["message"]
    assert remedy in ended.report["message"]
    assert ("GRANT" in ended.report["message"]) == ("GRANT" in remedy)


def test_the_update_privilege_is_required_only_if_a_repeatable_migration_runs_again(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"{TABLE.format('text')}; GRANT SELECT, INSERT ON _migrations TO {database.owner}")
    for value in (1, 2):
        migrations_dir.write("view.sql", f"{REPEATABLE}CREATE OR REPLACE VIEW v AS SELECT {value} AS a")
        ended = run()
    assert ended.exit_code == 5
    assert 'Run GRANT UPDATE ON "public"."_migrations"' in ended.report["message"]


# What the event trigger does, and the server's message.
EVENT_TRIGGERS = {
    "lacks a privilege": ("INSERT INTO audited VALUES (tg_tag);", "permission denied for table audited"),
    "raises": ("RAISE 'no tables in this database';", "no tables in this database"),
    "violates uniqueness": (
        "INSERT INTO once VALUES (1);",
        'duplicate key value violates unique constraint "once_pkey"',
    ),
}
EVENT_TRIGGER = (
    "CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN IF tg_tag = '{}' THEN {} END IF; END$$;"
    "CREATE EVENT TRIGGER ddl_audit ON ddl_command_end EXECUTE FUNCTION audit()"
)


@pytest.mark.parametrize("case", EVENT_TRIGGERS)
def test_an_event_trigger_that_rejects_the_table_is_named(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, case: str
) -> None:
    body, sentence = EVENT_TRIGGERS[case]
    database.admin_execute(
        "CREATE TABLE audited (tag text); CREATE TABLE once (n int PRIMARY KEY); INSERT INTO once VALUES (1);"
        f"GRANT INSERT ON once TO PUBLIC; {EVENT_TRIGGER.format('CREATE TABLE', body)}"
    )
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert ended.exit_code == 5
    assert f"The role cannot create _migrations: {sentence} (SQLSTATE " in ended.report["message"]
    assert "event trigger ddl_audit" in ended.report["message"]
    assert "GRANT" not in ended.report["message"]


@pytest.mark.parametrize("body", ["RAISE 'no changes';", "INSERT INTO audited VALUES (tg_tag);"])
def test_an_event_trigger_that_rejects_the_checksum_column_does_not_stop_the_run(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, body: str
) -> None:
    database.execute(TABLE.format("text").replace(", checksum text", ""))
    database.admin_execute(f"CREATE TABLE audited (tag text); {EVENT_TRIGGER.format('ALTER TABLE', body)}")
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert (ended.report["applied"], len(ended.named("table.unaltered"))) == (1, 1)


def test_a_schema_that_the_role_may_not_use_is_named(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(
        f'ALTER SCHEMA public OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA "My App";'
        f'ALTER ROLE {database.owner} SET search_path = nowhere, "My App"'
    )
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert (ended.exit_code, "exists" in ended.report["message"]) == (5, False)
    assert "lacks USAGE on schema My App in search_path" in ended.report["message"]
    database.admin_execute(f'GRANT USAGE, CREATE ON SCHEMA "My App" TO {database.owner}')
    assert run().report["applied"] == 1


def test_a_search_path_without_an_existing_schema_is_shown(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} SET search_path = nowhere, elsewhere")
    migrations_dir.write("001.sql", "SELECT 1")
    assert "No schema in search_path exists (it is set to nowhere, elsewhere)" in run().report["message"]


def test_a_grant_is_suggested_if_the_role_cannot_create_the_table(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute("ALTER SCHEMA public OWNER TO CURRENT_USER; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    migrations_dir.write("001.sql", "SELECT 1")
    message = run().report["message"]
    assert "permission denied for schema public (SQLSTATE 42501)" in message
    assert 'Run GRANT CREATE ON SCHEMA "public"' in message


@pytest.mark.parametrize("case", ["returns NULL", "raises", "removes the name"])
def test_a_rehearsal_also_explains_a_rejected_row(
    run: Callable[..., Run], text_table: Database, migrations_dir: MigrationsDir, case: str
) -> None:
    text_table.execute(TRIGGER.format(TRIGGERS[case][0]))
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    ended = run("plan", "--rehearse")
    assert ended.exit_code == 1
    assert TRIGGERS[case][1] in failure(ended)["error"] or case == "removes the name"
