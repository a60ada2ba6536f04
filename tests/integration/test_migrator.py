"""What a run does with its files, according to the database and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

NO_TRANSACTION = "-- migrate:no-transaction\n"


def failure(run: Run) -> dict[str, Any]:
    """Return the fields of the only failed migration."""
    (event,) = run.named("migration.failed")
    return event


def names(run: Run, event: str) -> list[str]:
    return [line["migration"] for line in run.named(event)]


def test_the_claim_is_the_first_statement_of_the_transaction(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    own = "xmin::text = pg_current_xact_id()::text"
    migrations_dir.write("001.sql", f"CREATE TABLE seen AS SELECT name, {own} FROM _migrations")
    assert run().exit_code == 0
    assert database.query("SELECT * FROM seen") == [("001.sql", True)]


def test_a_migration_that_another_runner_commits_first_is_skipped_and_rolled_back(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    # As behind a pooler or without real advisory locks: the row appears after the run has read the table.
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002.sql", "INSERT INTO _migrations (name) VALUES ('003.sql')")
    migrations_dir.write("003.sql", "CREATE TABLE b (id int)")
    migrations_dir.write("004.sql", "CREATE TABLE c (id int)")
    finished = run()
    assert finished.exit_code == 0
    assert names(finished, "migration.applied") == ["001.sql", "002.sql", "004.sql"]
    assert names(finished, "migration.skipped") == ["003.sql"]
    assert (finished.report["applied"], finished.report["skipped"]) == (3, 1)
    assert database.query("SELECT to_regclass('b')") == [(None,)]


def test_an_error_has_its_line_and_column_in_the_file(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "-- Übung\nSELECT 'ä';\r\n\r\nSELECT 'ö',\r\n  no_such_column;\r\n")
    event = failure(run())
    assert (event["sqlstate"], event["line"], event["column"]) == ("42703", 5, 3)
    assert (event["statement"], event["statements"]) == (2, 2)
    assert event["error"] == 'column "***" does not exist'


def test_an_error_without_a_position_has_the_line_of_its_statement(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql", "CREATE TABLE a (id int PRIMARY KEY);\nINSERT INTO a VALUES (1);\n\nINSERT INTO a VALUES (1);"
    )
    event = failure(run())
    assert (event["sqlstate"], event["line"], event["statement"]) == ("23505", 4, 3)
    assert "column" not in event


def test_a_deferred_constraint_that_fails_at_commit_fails_the_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql",
        """
        CREATE TABLE a (id int PRIMARY KEY);
        CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO b VALUES (1);
    """,
    )
    migrations_dir.write("002.sql", "SELECT 1")
    finished = run()
    assert failure(finished)["sqlstate"] == "23503"
    assert database.query("SELECT name FROM _migrations") == [("002.sql",)]


def test_on_error_stop_reports_later_migrations_as_not_run(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT 1/0")
    migrations_dir.write("003.sql", "SELECT 1")
    finished = run(MIGRATE_ON_ERROR="stop")
    assert finished.exit_code == 1
    assert names(finished, "migration.not_run") == ["003.sql"]
    counts = [finished.report[key] for key in ("applied", "failed", "skipped", "not_run")]
    assert counts == [1, 1, 0, 1]
    assert database.query("SELECT name FROM _migrations") == [("001.sql",)]


def test_require_files_rejects_an_empty_directory(run: Callable[..., Run]) -> None:
    finished = run(MIGRATE_REQUIRE_FILES="true")
    assert finished.exit_code == 2
    assert "Check that the directory is mounted." in finished.report["message"]


REJECTED = [
    ("SELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;", 2, "BEGIN"),
    ("SELECT 1;\n\nCOMMIT;", 3, "COMMIT"),
    ("INSERT INTO a VALUES (1); COMMIT; BEGIN;", 1, "COMMIT"),
    ("BEGIN;\nINSERT INTO a VALUES (1);\nCOMMIT;\nBEGIN;\nCOMMIT;", 3, "split the file"),
    ("BEGIN; INSERT INTO a VALUES (1);", 1, "there is no matching COMMIT"),
    ("-- migrate:no-transaction\nINSERT INTO a VALUES (1);\nBEGIN;", 3, "must commit each block"),
    ("COPY a FROM stdin;\n1\n2\n\\.\n", 1, "--inserts"),
    ("\\restrict abc\nSELECT 1;\n", 1, "pg_dump"),
    ("SELECT 1;\n\\connect other\n", 2, "psql"),
    ("SELECT 1;\nSELECT 'open", 2, "never closed"),
    ("SELECT 1;\n/* open", 2, "never closed"),
    ("SELECT 1;\nSELECT '\0';", 2, "NUL"),
]


def test_statements_that_would_block_the_session_are_rejected_before_anything_is_sent(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("000.sql", "CREATE TABLE a (id int)")
    for number, (content, _, _) in enumerate(REJECTED, 1):
        migrations_dir.write(f"{number:03}.sql", content)
    migrations_dir.write("999.sql", "INSERT INTO a VALUES (3)")
    finished = run()
    for event, (content, line, says) in zip(finished.named("migration.failed"), REJECTED, strict=True):
        assert (event["line"], says in event["error"]) == (line, True), content
        assert "sqlstate" not in event, "the file was sent to the server"
    assert (finished.exit_code, finished.report["applied"]) == (1, 2)
    assert database.query("SELECT id FROM a") == [(3,)]


@pytest.mark.parametrize(
    "contents", [[""], ["  \n", "-- nothing yet", "/* nothing */ ;; -- yet", "\ufeffSELECT 1"]], ids=["one", "several"]
)
def test_files_without_a_statement_or_with_a_byte_order_mark_are_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, contents: list[str]
) -> None:
    for number, content in enumerate(contents):
        migrations_dir.write(f"{number}.sql", content)
    assert run().exit_code == 0
    assert database.query("SELECT count(*) FROM _migrations") == [(len(contents),)]


def test_any_name_is_recorded_unchanged(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    odd = ["$$ %s {}.sql", "back\\slash.sql", 'it\'s "so".sql', "with space.sql", "ünïcødé ✓.sql"]
    for name in odd:
        migrations_dir.write(name, "SELECT 1")
    assert names(run(), "migration.applied") == odd
    assert sorted(database.query("SELECT name FROM _migrations")) == [(name,) for name in odd]
    assert run().report["skipped"] == len(odd)


def test_percent_signs_and_placeholders_reach_the_server_unchanged(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a AS SELECT '%s %(x)s {} $1 :x'::text AS t")
    assert run().exit_code == 0
    assert database.query("SELECT t FROM a") == [("%s %(x)s {} $1 :x",)]


def test_a_big_file_is_one_transaction_and_an_error_after_the_first_chunk_has_its_line(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    rows = "".join(f"INSERT INTO a VALUES ('{number:0100}');\n" for number in range(30_000))
    migrations_dir.write("001.sql", f"CREATE TABLE a (t text);\n{rows}")
    migrations_dir.write("002.sql", f"CREATE TABLE b (t text);\n{rows}INSERT INTO a\nVALUES (nope);")
    finished = run()
    assert names(finished, "migration.applied") == ["001.sql"]
    event = failure(finished)
    assert (event["line"], event["column"], event["statement"]) == (30_003, 9, 30_002)
    assert database.query("SELECT count(*), to_regclass('b') FROM a") == [(30_000, None)]


# Order, drift


def test_files_run_in_code_point_order_and_a_different_numeric_order_causes_a_warning(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    for name in ("2_b.sql", "10_c.sql", "1_a.sql", "Z.sql", "a.sql"):
        migrations_dir.write(name, "SELECT 1")
    finished = run()
    assert names(finished, "migration.applied") == ["10_c.sql", "1_a.sql", "2_b.sql", "Z.sql", "a.sql"]
    assert names(finished, "migration.misordered") == ["10_c.sql"]


def test_drift_causes_a_warning_but_no_failure(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("002.sql", "SELECT 2")
    gone = migrations_dir.write("003.sql", "SELECT 3")
    assert run().exit_code == 0
    gone.unlink()
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT 22")
    migrations_dir.write("004.SQL", "SELECT 4")
    finished = run()
    assert finished.exit_code == 0
    assert names(finished, "migration.late") == ["001.sql"]
    assert names(finished, "migration.changed") == ["002.sql"]
    assert names(finished, "migration.missing") == ["003.sql"]
    assert names(finished, "migration.ignored") == ["004.SQL"]
    assert {
        line["level"]
        for line in finished.events
        if line["event"].startswith("migration.") and line["event"] != "migration.applied"
    } == {"warning"}


def test_a_file_with_different_line_endings_counts_as_unchanged(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nSELECT 2;\n")
    run()
    migrations_dir.write("001.sql", "\ufeffSELECT 1;\r\nSELECT 2;\r\n")
    assert run().named("migration.changed") == []


# Retryable errors


def test_a_lock_timeout_is_retried_until_the_lock_is_free(
    start: Callable[..., Any], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE busy (id int)")
    migrations_dir.write("001.sql", "ALTER TABLE busy ADD COLUMN more int")
    with database.connect(autocommit=False) as other:
        other.execute("LOCK TABLE busy")
        process = start(MIGRATE_LOCK_TIMEOUT="100ms", MIGRATE_RETRIES="50")
        event = process.wait_for("migration.retrying")
        assert (event["sqlstate"], event["attempt"], event["attempts"]) == ("55P03", 1, 50)
    finished = process.finish()
    assert finished.exit_code == 0
    assert names(finished, "migration.applied") == ["001.sql"]


# Without a transaction


@pytest.mark.session("no-transaction migrations need a session")
def test_a_no_transaction_file_runs_statement_by_statement(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write(
        "002.sql",
        f"{NO_TRANSACTION}CREATE INDEX CONCURRENTLY one ON a (id);\nVACUUM a;\nREINDEX INDEX CONCURRENTLY one;",
    )
    assert run().exit_code == 0
    assert database.query("SELECT indexname FROM pg_indexes WHERE tablename = 'a'") == [("one",)]
    assert database.query("SELECT count(*) FROM _migrations") == [(2,)]


@pytest.mark.session("no-transaction migrations need a session")
def test_a_failing_no_transaction_file_keeps_and_reports_the_earlier_statements(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql", f"{NO_TRANSACTION}CREATE TABLE a (id int);\nSELECT\n 1/0;\nCREATE TABLE b (id int);"
    )
    event = failure(run())
    assert (event["line"], event["statement"], event["statements"]) == (3, 2, 3)
    assert event["hint"] == "1 earlier statement has taken effect and cannot be rolled back"
    assert database.query("SELECT to_regclass('a')::text, to_regclass('b')") == [("a", None)]
    assert database.query("SELECT count(*) FROM _migrations") == [(0,)]


@pytest.mark.session("no-transaction migrations need a session")
def test_an_invalid_index_after_a_failed_build_is_named_and_never_counts_as_success(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1)")
    migrations_dir.write("001.sql", f"{NO_TRANSACTION}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one ON a (id);")
    event = failure(run())
    assert event["sqlstate"] == "23505"
    assert 'DROP INDEX CONCURRENTLY "public"."one"' in event["hint"]
    again = failure(run())  # IF NOT EXISTS finds the INVALID index and does nothing
    assert "INVALID index" in again["error"]
    assert 'DROP INDEX CONCURRENTLY "public"."one"' in again["hint"]
    assert database.query("SELECT count(*) FROM _migrations") == [(0,)]
    database.execute("DROP INDEX CONCURRENTLY one; ")
    database.execute("TRUNCATE a")
    assert run().exit_code == 0


@pytest.mark.session("no-transaction migrations need a session")
def test_an_unrelated_invalid_index_is_ignored(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        database.execute("CREATE UNIQUE INDEX CONCURRENTLY theirs ON a (id)")
    migrations_dir.write("001.sql", f"{NO_TRANSACTION}CREATE INDEX CONCURRENTLY ours ON a (id);")
    assert run().exit_code == 0
