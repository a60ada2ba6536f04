"""What the log adds to the server's message: condition, position, command, objects and advice.

Each piece of advice is tested by provoking its error on a real server, with and without a transaction.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from predeploy.apply.advice import ADVICE, SPECIAL, condition_of
from predeploy.sql.splitter import split
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.migrations_dir import MigrationsDir
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Event, Run

# SQLSTATEs of Postgres 13, 15 or 18 that PL/pgSQL does not know
UNKNOWN_TO_PLPGSQL = {"02000", "02001", "10608", "2203G", "25P04", "57P05", "58P03", "72000"}
# If several SQLSTATEs have the same name, PL/pgSQL uses the first one.
SHARED = {"38002": "2F002", "38003": "2F003", "38004": "2F004", "39004": "22004"}
NO_TRANSACTION = "-- migrate:no-transaction\n"
SETUP = """
CREATE TABLE users (id int PRIMARY KEY, name varchar(9) NOT NULL, age int CHECK (age > 0), no int GENERATED ALWAYS AS
    IDENTITY);
INSERT INTO users VALUES (1, 'a', 30), (2, 'b', 40);
CREATE VIEW names AS SELECT id, name FROM users;
CREATE TABLE notes (author int REFERENCES users DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE spans (during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TYPE mood AS ENUM ('sad');
CREATE SCHEMA app;
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
"""
OPEN_CURSOR = "DO $$ DECLARE c CURSOR FOR TABLE users; BEGIN OPEN c; ALTER TABLE users ADD mail text; END $$"
# SQL whose last statement fails; its SQLSTATE, condition, command; words of the advice with and without a transaction
# ("" if there is no error, None for no advice).
Advice = str | None
CASES: dict[str, tuple[str, str, str, str | None, Advice, Advice]] = {
    "setting of a newer version": ("SET x = 1", "42704", "undefined_object", "SET", "newer Postgres", "newer Postgres"),
    "needs no transaction": ("VACUUM users", "25001", "active_sql_transaction", "VACUUM", "no-transaction", ""),
    "index, concurrently": (
        "CREATE INDEX CONCURRENTLY ages ON users (age)",
        "25001",
        "active_sql_transaction",
        "CREATE INDEX CONCURRENTLY",
        "file of its own that begins with -- migrate:no-transaction",
        "",
    ),
    "needs no transaction, in a block": (
        "DO $$ BEGIN EXECUTE 'VACUUM users'; END $$",
        "25001",
        "active_sql_transaction",
        "DO",
        "the statement itself, not a function",
        "not a function or block that runs it",
    ),
    "isolation level": (
        "SELECT 1; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "25001",
        "active_sql_transaction",
        "SET",
        "at the beginning of the file",
        "",
    ),
    "isolation level, by function": (
        "SELECT set_config('transaction_isolation', 'serializable', true)",
        "25001",
        "active_sql_transaction",
        "SELECT",
        "at the beginning of the file",
        "at the beginning of the file",
    ),
    "needs a transaction": (
        "LOCK TABLE users",
        "25P01",
        "no_active_sql_transaction",
        "LOCK",
        "",
        "Remove -- migrate:no-transaction",
    ),
    "read only": (
        "SET default_transaction_read_only = on; SET transaction_read_only = on; CREATE TABLE x ()",
        "25006",
        "read_only_sql_transaction",
        "CREATE TABLE",
        "default_transaction_read_only",
        "default_transaction_read_only",
    ),
    "table exists": ("CREATE TABLE users ()", "42P07", "duplicate_table", "CREATE TABLE", "IF NOT EXISTS", "same"),
    "index exists": (
        "CREATE INDEX users_pkey ON users (age)",
        "42P07",
        "duplicate_table",
        "CREATE INDEX",
        "same",
        "IF",
    ),
    "column exists": (
        "ALTER TABLE users ADD age int",
        "42701",
        "duplicate_column",
        "ALTER TABLE",
        "IF NOT EXISTS",
        "if it is the same",
    ),
    "type exists": ("CREATE TYPE mood AS ENUM ()", "42710", "duplicate_object", "CREATE TYPE", "same", "drop it first"),
    "role exists": ("CREATE ROLE postgres", "42710", "duplicate_object", "CREATE ROLE", "remove the statement", "same"),
    "function exists": (
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "42723",
        "duplicate_function",
        "CREATE FUNCTION",
        "CREATE OR REPLACE",
        "CREATE OR REPLACE",
    ),
    "schema exists": ("CREATE SCHEMA app", "42P06", "duplicate_schema", "CREATE SCHEMA", "IF NOT EXISTS", "IF NOT"),
    "no table": ("SELECT * FROM nowhere", "42P01", "undefined_table", "SELECT", "Fix the name", "schema"),
    "no column": (
        "ALTER TABLE users DROP zip",
        "42703",
        "undefined_column",
        "ALTER TABLE",
        "name of the column",
        "Fix",
    ),
    "no function": ("SELECT two()", "42883", "undefined_function", "SELECT", "cast the arguments", "extension"),
    "no type": ("CREATE TABLE x (m moods)", "42704", "undefined_object", "CREATE TABLE", "Fix the name", "type"),
    "no role": ("GRANT SELECT ON users TO nobody_here", "42704", "undefined_object", "GRANT", "role", "role"),
    "no schema": ("CREATE TABLE nowhere.x ()", "3F000", "invalid_schema_name", "CREATE TABLE", "schema", "schema"),
    "no search_path": (
        "SET search_path = nowhere; CREATE TABLE x ()",
        "3F000",
        "invalid_schema_name",
        "CREATE TABLE",
        "search_path",
        "search_path",
    ),
    "no privilege": (
        "SET ROLE pg_monitor; INSERT INTO users VALUES (3, 'c', 5)",
        "42501",
        "insufficient_privilege",
        "INSERT",
        "GRANT",
        "owner of the object",
    ),
    "unique": ("INSERT INTO users VALUES (1, 'c', 5)", "23505", "unique_violation", "INSERT", "duplicates", "HAVING"),
    "unique index": (
        "CREATE UNIQUE INDEX one_row ON users ((1))",
        "23505",
        "unique_violation",
        "CREATE INDEX",
        "duplicates",
        "HAVING count(*) > 1",
    ),
    "foreign key": (
        "ALTER TABLE notes ALTER CONSTRAINT notes_author_fkey NOT DEFERRABLE; INSERT INTO notes VALUES (7)",
        "23503",
        "foreign_key_violation",
        "INSERT",
        "missing rows",
        "referenced table",
    ),
    "not null": ("INSERT INTO users (id) VALUES (9)", "23502", "not_null_violation", "INSERT", "UPDATE", "DEFAULT"),
    "check": ("INSERT INTO users VALUES (9, 'c', 0)", "23514", "check_violation", "INSERT", "NOT VALID", "Fix"),
    "exclusion": (
        "INSERT INTO spans VALUES ('[1,5]'), ('[2,3]')",
        "23P01",
        "exclusion_violation",
        "INSERT",
        "conflicting rows",
        "rows",
    ),
    "dependent": ("DROP TABLE users", "2BP01", "dependent_objects_still_exist", "DROP TABLE", "CASCADE", "dependent"),
    "in use": (
        "INSERT INTO notes VALUES (1); ALTER TABLE notes ADD x int",
        "55006",
        "object_in_use",
        "ALTER TABLE",
        "into a later file",
        "",
    ),
    "in use by the block": (OPEN_CURSOR, "55006", "object_in_use", "DO", "into a later file", "out of the block"),
    "syntax": ("CREATE TABEL x ()", "42601", "syntax_error", "CREATE", "line and column", "line and column"),
    "unknown statement": ("CRAETE TABLE x ()", "42601", "syntax_error", None, "line and column", "line and column"),
    "extension": ("CREATE EXTENSION x9", "(0A000|58P01)", "", "CREATE EXTENSION", "extension's package", "server"),
    "file": ("COPY users FROM '/nowhere/x'", "58P01", "undefined_file", "COPY", "the database server can open", "this"),
    "library": (
        "CREATE FUNCTION x() RETURNS int LANGUAGE c AS '$libdir/nowhere', 'x'",
        "58P01",
        "undefined_file",
        "CREATE FUNCTION",
        "Install the library",
        "Install the library",
    ),
    "disk full": ("COPY users TO '/dev/full'", "53100", "disk_full", "COPY", "Free disk space", "Free disk space"),
    "temporary files": (
        "SET temp_file_limit = 0; SET work_mem = '64kB'; SELECT n FROM generate_series(1, 99999) n ORDER BY -n",
        "53400",
        "configuration_limit_exceeded",
        "SELECT",
        "temp_file_limit",
        "Raise the limit",
    ),
    "enum value": (
        "ALTER TYPE mood ADD VALUE 'glad'; SELECT 'glad'::mood",
        "55P04",
        "unsafe_new_enum_value_usage",
        "SELECT",
        "in a later file",
        "",
    ),
    "types": (
        "ALTER TABLE notes ADD t text; ALTER TABLE notes ALTER t TYPE int",
        "42804",
        "datatype_mismatch",
        "ALTER TABLE",
        "USING",
        "USING",
    ),
    "no cast": ("SELECT now()::int", "42846", "cannot_coerce", "SELECT", "no cast between", "no cast between"),
    "used by a view": (
        "ALTER TABLE users ALTER name TYPE text",
        "0A000",
        "feature_not_supported",
        "ALTER TABLE",
        "Drop the view or rule",
        "Drop the view or rule",
    ),
    "not supported otherwise": (
        "CREATE TABLE x () INHERITS (users) PARTITION BY LIST (id)",
        "42P17",
        "invalid_object_definition",
        "CREATE TABLE",
        None,
        None,
    ),
    "view's columns": (
        "CREATE OR REPLACE VIEW names AS SELECT name AS id FROM users",
        "42P16",
        "invalid_table_definition",
        "CREATE VIEW",
        "Drop the view and create it again",
        "Drop the view and create it again",
    ),
    "division": ("SELECT 1 / 0", "22012", "division_by_zero", "SELECT", "NULLIF", "NULLIF"),
    "text": ("SELECT 'x'::int", "22P02", "invalid_text_representation", "SELECT", "Fix the value", "the type"),
    "date": ("SELECT 'morgen'::date", "22007", "invalid_datetime_format", "SELECT", "ISO 8601", "ISO 8601"),
    "date out of range": ("SELECT '31.12.2026'::date", "22008", "datetime_field_overflow", "SELECT", "ISO", "8601"),
    "number": ("SELECT 99999999999::int", "22003", "numeric_value_out_of_range", "SELECT", "wider type", "bigint"),
    "encoding": (
        r"SELECT convert_from('\xff', 'UTF8')",
        "22021",
        "character_not_in_repertoire",
        "SELECT",
        "bytes",
        "encoding",
    ),
    "other encoding": (
        "SELECT convert_to('€', 'LATIN1')",
        "22P05",
        "untranslatable_character",
        "SELECT",
        "does not exist in that encoding",
        "UTF8",
    ),
    "too long": (
        "INSERT INTO users VALUES (9, '0123456789', 5)",
        "22001",
        "string_data_right_truncation",
        "INSERT",
        "Shorten",
        "widen",
    ),
    "commit in a procedure": (
        "CALL commits()",
        "2D000",
        "invalid_transaction_termination",
        "CALL",
        "-- migrate:no-transaction",
        "",
    ),
    "commit under an exception": (
        "DO $$ BEGIN CALL commits(); EXCEPTION WHEN division_by_zero THEN NULL; END $$",
        "2D000",
        "invalid_transaction_termination",
        "DO",
        "-- migrate:no-transaction",
        "blocks with EXCEPTION",
    ),
    "ambiguous": ("SELECT id FROM users u, users v", "42702", "ambiguous_column", "SELECT", "alias", "alias"),
    "no key to refer to": (
        "CREATE TABLE x (a int REFERENCES users (age))",
        "42830",
        "invalid_foreign_key",
        "CREATE TABLE",
        "UNIQUE",
        "PRIMARY KEY",
    ),
    "generated": (
        "INSERT INTO users (id, name, no) VALUES (9, 'c', 1)",
        "428C9",
        "generated_always",
        "INSERT",
        "OVERRIDING",
        "Leave out the column",
    ),
    "on conflict, no key": (
        "INSERT INTO users VALUES (9, 'c', 5) ON CONFLICT (age) DO NOTHING",
        "42P10",
        "invalid_column_reference",
        "INSERT",
        "unique constraint",
        "unique constraint",
    ),
    "order": ("SELECT id FROM users ORDER BY 9", "42P10", "invalid_column_reference", "SELECT", None, None),
    "two rows": ("SELECT (SELECT id FROM users)", "21000", "cardinality_violation", "SELECT", "one row", "one row"),
    "raised": ("DO $$ BEGIN RAISE 'no' USING ERRCODE = '23514'; END $$", "23514", "check_violation", "DO", None, None),
    "raised without a name": ("DO $$ BEGIN RAISE SQLSTATE 'ZZ123'; END $$", "ZZ123", "", "DO", None, None),
    "asserted": ("DO $$ BEGIN ASSERT 1 = 2, 'no'; END $$", "P0004", "assert_failure", "DO", None, None),
    "grouping": ("SELECT id, count(*) FROM notes, users", "42803", "grouping_error", "SELECT", None, None),
}
MISSING_CODES = {"3F000", "42703", "42704", "42883", "42P01"}
MISSING = {case for case, (_, sqlstate, *_) in CASES.items() if sqlstate in MISSING_CODES}
# Tested separately after the table or in test_ended_by_server.py, because these need another session or a separate
# server.
STAGED = {"55P03", "57014", "40P01", "40001", "53200", "55006", "25P03", "25P04", "57P01", "57P02", "57P04", "57P05"}


@pytest.fixture(scope="module", params=["in a transaction", "no transaction"])
def explained_cases(
    request: pytest.FixtureRequest, server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, dict[str, Event]]:
    """Run each case as a file; return whether it is transactional, and each case's event by name."""
    directory = tmp_path_factory.mktemp("explained")
    files = MigrationsDir(directory / "migrations")
    transactional = request.param == "in a transaction"
    for number, case in enumerate(CASES):
        if case not in MISSING:
            write_case(files, f"{number:03}.sql", case, transactional=transactional)
    with fresh_database(server) as database:
        database.admin_execute(SETUP)
        variables = {"DATABASE_URL": server.dsn(database.name), "MIGRATIONS_DIR": str(files)}
        run = Program(variables, directory / "processes").run()
    assert "hunter2" not in run.stdout
    names = list(CASES)
    return transactional, {names[int(event["migration"][:3])]: event for event in run.named("migration.failed")}


@pytest.mark.parametrize("case", [case for case in CASES if case not in MISSING])
def test_an_error_is_logged_with_its_condition_position_and_advice(
    explained_cases: tuple[bool, dict[str, Event]], case: str
) -> None:
    transactional, events = explained_cases
    if CASES[case][4 if transactional else 5] == "":
        assert case not in events
    else:
        check_case(events[case], case, transactional=transactional)


@pytest.mark.parametrize("case", sorted(MISSING))
def test_a_missing_object_has_advice_if_no_migration_failed_before(
    server: PostgresServer, program: Program, migrations_dir: MigrationsDir, case: str
) -> None:
    with fresh_database(server) as database:
        database.admin_execute(SETUP)
        write_case(migrations_dir, "001.sql", case, transactional=True)
        (event,) = program.run(DATABASE_URL=server.dsn(database.name)).named("migration.failed")
    check_case(event, case, transactional=True)
    assert str(CASES[case][5]) in event["advice"]


def write_case(files: MigrationsDir, name: str, case: str, *, transactional: bool) -> None:
    files.write(name, f"{'' if transactional else NO_TRANSACTION}{CASES[case][0]};\nSELECT 'hunter2'")


def check_case(event: Event, case: str, *, transactional: bool) -> None:
    sql, sqlstate, condition, command, *advices = CASES[case]
    advice = advices[0 if transactional else 1]
    assert re.fullmatch(sqlstate, event["sqlstate"]), event
    assert event.get("condition", "") == condition or not condition, event
    assert event.get("command") == command
    assert (event["statement"], event["statements"]) == (len(split(sql)), len(split(sql)) + 1)
    assert event["line"] == (1 if transactional else 2)
    assert advice in event["advice"] if advice else "advice" not in event, event


def test_all_advice_has_a_case() -> None:
    met = {sqlstate for _, sqlstates, *_ in CASES.values() for sqlstate in sqlstates.strip("()").split("|")}
    assert {*ADVICE, *(key[0] for key in SPECIAL)} <= met | STAGED


def test_each_piece_of_advice_is_one_sentence() -> None:
    for advice in (*ADVICE.values(), *SPECIAL.values()):
        assert re.fullmatch(r"[A-Z][^\n]{9,149}\.", advice), advice
        assert not re.search(r"[.!?] [A-Z]", advice.replace("...", "")), advice


def explained(run: Callable[..., Run], **variables: str) -> Event:
    (event,) = run(**variables).named("migration.failed")
    return event


PLACEHOLDERS = {
    "CREATE TABLE {{ .Schema }}.a (id int);": "{{ ... }} is a template placeholder",
    "SELECT 1;\nCREATE TABLE\n {{sesame}} ();": "{{ ... }} is a template placeholder",
    "CREATE TABLE ${schema}.a (id int);": "${...} is a Flyway or shell placeholder",
    "INSERT INTO users SELECT ${sesame};": "${...} is a Flyway or shell placeholder",
    "CREATE TABLE :schema.a (id int);": ":name is a psql or application variable",
    "SELECT :'sesame';": ":name is a psql or application variable",
    "SELECT * FROM users WHERE id = :sesame": ":name is a psql or application variable",
    "CREATE TABLE @extschema@.a (id int);": "@extschema@ is a placeholder for extension scripts",
    "SELECT @extschema@.f();": "@extschema@ is a placeholder for extension scripts",
    "CREATE TABLE @sesame@.a (id int);": "@...@ is a placeholder",
    "CREATE TABL {{ .Schema }}.a (id int);": "Fix the statement",
    "SELECT 1::int, '{{ x }}' FRM ${schema}": "${...} is a Flyway or shell placeholder",
    "SELECT '${x} @y@' :: ::int": "Fix the statement",
    "SELEC :name": "Fix the statement",
    "SELECT (ARRAY[1])[1:sesame;": "Fix the statement",
}


def test_a_placeholder_of_another_tool_is_named(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int)")
    for number, sql in enumerate(PLACEHOLDERS):
        migrations_dir.write(f"{number:03}.sql", sql)
    for event, (sql, says) in zip(run().named("migration.failed"), PLACEHOLDERS.items(), strict=True):
        assert (event["sqlstate"], event["advice"].startswith(says)) == ("42601", True), (sql, event)
        assert "sesame" not in event["advice"]
        if "is a" in says:
            assert event["advice"].endswith(", which pg-predeploy does not replace: write the value itself.")


TEXTS = {
    "CREATE TABLE\u00a0users ();": "Line 1, column 13 has a character that resembles a space (no-break space, U+00A0)",
    "SELECT 1;\n\u200b\n": "Line 2, column 1 has an invisible character (zero width space, U+200B): remove it",
    "SELECT 1;\nSELECT \u2018a\u2019;": "Line 2, column 8 has a typographic quotation mark (left single quotation mark",
    "SELECT * FROM user\u200bs": "Line 1, column 19 has an invisible character",
    "SELECT f\ufeff(1)": "Line 1, column 9 has an invisible character (zero width no-break space, U+FEFF)",
    "SELECT 1 \x07FROM x": "Line 1, column 10 has an invisible character (unnamed, U+0007): remove it",
    "SELECT 1;\n<<<<<<< HEAD\nSELECT 2;\n=======\nSELECT 3;\n>>>>>>> x\n": "Line 2 is a Git conflict marker.",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n": "This is a Git LFS pointer",
    "\n<!DOCTYPE html>\n<html></html>": "This is an HTML page, not SQL.",
    "SELECT '\u00a0', 'a\u200b' FRM x -- \u00a0": "Fix the statement",
    "SELECT \u00a0FROM; SELECT 1": "Line 1, column 8",
    "SELECT '<<<<<<< HEAD'; SELEC": "Fix the statement",
    "SET transaction_timeout_of_tomorrow = 0": "Remove the line if it was written for a newer Postgres",
    "SELECT set_config('transaction_timeout_of_tomorrow', '0', false)": "Remove the line if it was written for",
}


def test_text_that_causes_the_error_is_named(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    for number, sql in enumerate(TEXTS):
        migrations_dir.write(f"{number:03}.sql", sql)
    for event, (sql, says) in zip(run().named("migration.failed"), TEXTS.items(), strict=True):
        assert event["advice"].startswith(says), (sql, event)


def test_the_hint_for_copy_does_not_suggest_psql(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} SUPERUSER")
    migrations_dir.write("001.sql", "CREATE TABLE t (n int); COPY t FROM '/nowhere/t.csv'")
    failed = explained(run)
    assert (failed["sqlstate"], failed.get("hint")) == ("58P01", None)
    assert "where the database server can open it" in failed["advice"]


# Conditions


def test_condition_names_match_the_server(database: Database) -> None:
    """PL/pgSQL knows them by name, except for those that are not errors or are newer than the server."""
    codes = {code for code in psycopg.errors.__dict__["_sqlcodes"] if re.fullmatch(r"[0-9A-Z]{5}", code)}
    raised: dict[str, str | None] = {}
    with database.connect() as conn:
        for code in codes:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(f"DO $$ BEGIN RAISE {condition_of(code)}; END $$")
            raised[code] = caught.value.sqlstate
    unknown = {code for code, sqlstate in raised.items() if sqlstate == "42704" != code}
    assert unknown <= UNKNOWN_TO_PLPGSQL
    assert {code: raised[code] for code in codes - unknown if raised[code] != code} == SHARED


def test_an_unknown_sqlstate_has_no_condition() -> None:
    assert [condition_of(code) for code in (None, "", "ZZ123", "4")] == [None] * 4


# With another session


def test_a_lock_timeout(run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir) -> None:
    database.execute("CREATE TABLE a (id int)")
    migrations_dir.write("001.sql", "-- first\nALTER TABLE a ADD b int")
    migrations_dir.write("002.sql", "SELECT 1")
    with database.connect(autocommit=False) as other:
        other.execute("TABLE a")
        finished = run(MIGRATE_LOCK_TIMEOUT="50ms", MIGRATE_RETRIES="2")
    (event,), (retried,) = finished.named("migration.failed"), finished.named("migration.retrying")
    assert (event["sqlstate"], event["condition"], event["command"]) == ("55P03", "lock_not_available", "ALTER TABLE")
    assert "MIGRATE_LOCK_TIMEOUT" in event["advice"]
    assert (retried["sqlstate"], retried["condition"], retried["attempt"]) == ("55P03", "lock_not_available", 1)
    assert "advice" not in retried
    place = "001.sql:2: canceling statement due to lock timeout (SQLSTATE 55P03 lock_not_available, ALTER TABLE)"
    retrying = "canceling statement due to lock timeout (SQLSTATE 55P03, line 2)"
    assert (
        re.sub(r"0\.[12] s", "... s", retried["message"]) == f"Retrying 001.sql in ... s (attempt 2 of 2): {retrying}"
    )
    assert event["message"] == f"Failed: {place}"
    assert [line["migration"] for line in finished.named("migration.applied")] == ["002.sql"]


def test_a_statement_timeout(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nSELECT pg_sleep(30)")
    finished = run(MIGRATE_STATEMENT_TIMEOUT="50ms")
    (event,) = finished.named("migration.failed")
    assert (event["sqlstate"], event["condition"], event["line"]) == ("57014", "query_canceled", 2)
    assert finished.named("migration.retrying") == []
    assert "MIGRATE_STATEMENT_TIMEOUT" in event["advice"]


def test_a_deadlock(run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir) -> None:
    database.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    migrations_dir.write("001.sql", "LOCK TABLE a; LOCK TABLE b;")
    with database.admin_connect(autocommit=False) as other:
        # so that the other session detects the deadlock first
        other.execute("SET deadlock_timeout = '1min'; LOCK TABLE b")
        second = threading.Thread(target=lambda: _close_the_circle(database, other))
        second.start()
        event = explained(run, MIGRATE_RETRIES="1")
        second.join(30)
    assert (event["sqlstate"], event["condition"], event["command"]) == ("40P01", "deadlock_detected", "LOCK")
    assert "in the same order as the application" in event["advice"]


def test_a_serialization_failure(run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir) -> None:
    database.execute("CREATE TABLE a (id int); INSERT INTO a VALUES (1)")
    statements = (
        "SET default_transaction_isolation = 'repeatable read'",
        "DO $$ BEGIN PERFORM * FROM a; PERFORM pg_advisory_lock(7); UPDATE a SET id = 3; END $$",
    )
    migrations_dir.write("001.sql", NO_TRANSACTION + ";\n".join(statements))
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(7)")
        second = threading.Thread(target=lambda: _change_what_is_read(database, other))
        second.start()
        event = explained(run)
        second.join(30)
    assert (event["sqlstate"], event["condition"], event["command"]) == ("40001", "serialization_failure", "DO")
    assert "another transaction has changed the same rows" in event["advice"]


def _waits(database: Database) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    return bool(database.admin_query(waiting, database.name))


def _close_the_circle(database: Database, other: psycopg.Connection[Any]) -> None:
    eventually(lambda: _waits(database))
    other.execute("LOCK TABLE a")


def _change_what_is_read(database: Database, other: psycopg.Connection[Any]) -> None:
    eventually(lambda: _waits(database))
    other.execute("UPDATE a SET id = 2")
    other.execute("SELECT pg_advisory_unlock(7)")


def test_too_many_locks(private_server: PostgresServer, migrations_dir: MigrationsDir, tmp_path: Path) -> None:
    migrations_dir.write("001.sql", "SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 1000000) n")
    variables = {"DATABASE_URL": private_server.dsn(), "MIGRATIONS_DIR": str(migrations_dir)}
    (event,) = Program(variables, tmp_path / "processes").run().named("migration.failed")
    assert (event["sqlstate"], event["condition"]) == ("53200", "out_of_memory")
    assert "max_locks_per_transaction" in event["hint"]
    assert "Split the file" in event["advice"]


# Objects and positions


def test_affected_objects_are_logged_as_fields(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int CONSTRAINT once PRIMARY KEY, name text NOT NULL)")
    database.execute("CREATE DOMAIN age AS int CONSTRAINT positive CHECK (value > 0)")
    migrations_dir.write("001.sql", "INSERT INTO users VALUES (1, 'a'), (1, 'hunter2')")
    migrations_dir.write("002.sql", "INSERT INTO users VALUES (1, NULL)")
    migrations_dir.write("003.sql", "SELECT (-5)::age")
    unique, null, domain = run().named("migration.failed")
    names = ("schema", "table", "column_name", "data_type", "constraint")
    assert [unique.get(name) for name in names] == ["public", "users", None, None, "once"]
    assert [null.get(name) for name in names] == ["public", "users", "name", None, None]
    assert [domain.get(name) for name in names] == ["public", None, None, "age", "positive"]
    assert "column" not in null


def test_names_that_a_file_raises_contain_no_password(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    raised = "RAISE 'no' USING TABLE = 'password=hunter2', CONSTRAINT = 'a\x1b[1m', COLUMN = repeat('x', 5000)"
    migrations_dir.write("001.sql", f"DO $$ BEGIN {raised}; END $$")
    event = explained(run)
    assert "hunter2" not in json.dumps(event)
    assert (event["table"], event["constraint"]) == ("password=***", "a [1m")
    assert len(event["column_name"]) < 2100


def test_the_location_is_in_the_format_of_editors(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nSELECT 2;\n  SELECT * FROM nowhere;")
    migrations_dir.write("002.sql", "SELECT 1/0")
    migrations_dir.write("003.sql", "\n\nCOMMIT")
    first, second, third = [event["message"] for event in run().named("migration.failed")]
    assert first == (
        'Failed: 001.sql:3:17: relation "nowhere" does not exist '
        "(SQLSTATE 42P01 undefined_table, SELECT, statement 3 of 3)"
    )
    assert second == "Failed: 002.sql:1: division by zero (SQLSTATE 22012 division_by_zero, SELECT)"
    assert third.startswith("Failed: 003.sql:3: COMMIT: there is no matching BEGIN")


def test_a_syntax_error_has_a_statement_number_although_the_server_has_run_nothing(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ();\n\nALTER TABLE a\n  ADDD b int;\nDROP TABLE a")
    event = explained(run)
    assert (event["statement"], event["statements"], event["command"]) == (2, 3, "ALTER TABLE")
    assert (event["line"], event["column"]) == (4, 3)


BLOCKS = [  # the statement, and the line within it
    ("DO $$\nBEGIN\n  PERFORM 1;\n  PERFORM 1/0;\nEND $$", 4),
    ("DO LANGUAGE plpgsql $body$ BEGIN\n  PERFORM 1/0;\nEND $body$", 2),
    ("DO\n$$BEGIN PERFORM 1/0; END $$", 2),
    ("DO '\nBEGIN\n RAISE ''no''; END'", 3),
    ("DO $$\nBEGIN\nEXECUTE 'DO $x$\n\n\n\nBEGIN PERFORM 1/0; END $x$';\nEND $$", 3),
    ("DO $$\nBEGIN\n  PERFORM * FROM nowhere;\nEND $$", 3),
    ("DO $$\nBEGIN\n  PERFROM 1;\nEND $$", 3),
    ("DO /* $$ */ $$\nBEGIN\n  PERFORM 1/0;\nEND $$", 1),
    ("SELECT\n'inline_code_block line 9'::int", 2),
]


@pytest.mark.parametrize("head", ["", NO_TRANSACTION], ids=["in a transaction", "no transaction"])
def test_the_line_in_a_block(run: Callable[..., Run], migrations_dir: MigrationsDir, head: str) -> None:
    for number, (block, _) in enumerate(BLOCKS):
        migrations_dir.write(f"{number}.sql", f"{head}SELECT 1;\n{block};\nSELECT 2")
    for event, (block, line) in zip(run().named("migration.failed"), BLOCKS, strict=True):
        assert (event["line"], event["statement"]) == (line + 1 + bool(head), 2), block


# After a failure


def test_a_missing_object_after_a_failure_may_be_a_consequence_of_it(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1/0")
    migrations_dir.write("002_users.sql", "CREATE TABLE users (id int, bad nowhere_type)")
    migrations_dir.write("003.sql", "SELECT * FROM users")
    migrations_dir.write("004.sql", "ALTER TABLE users ADD b int")
    migrations_dir.write("005.sql", "SELECT 1/0")
    migrations_dir.write("006.sql", "CREATE TABLE app.t ()")
    events = run().named("migration.failed")
    advices = [event["advice"] for event in events]
    assert [event["after_failure"] for event in events] == [False, True, True, True, True, True]
    assert advices[2] == "Fix 002_users.sql first; this error is probably caused by its failure."
    assert advices[3] == "Fix 002_users.sql, 003.sql first; this error is probably caused by its failure."
    assert advices[0] == advices[4] == ADVICE["22012"]
    assert advices[5] == (
        "Fix 001.sql, 002_users.sql, 003.sql, ... first; this error is probably caused by its failure."
    )


@pytest.mark.parametrize(
    ("maker", "user"),
    [
        ("CREATE FUNCTION make_it() RETURNS int LANGUAGE sql AS 'SELECT 1/0'; SELECT 1/0", "SELECT make_it(1)"),
        ("CREATE TYPE moods AS ENUM (); SELECT 1/0", "CREATE TABLE x (m moods)"),
        ("CREATE SCHEMA app; SELECT 1/0", "CREATE TABLE app.x ()"),
        ('CREATE SCHEMA app; CREATE TABLE app."Users" (); SELECT 1/0', 'SELECT * FROM app."Users"'),
        ("ALTER TABLE there ADD zip text; SELECT 1/0", "SELECT zip FROM there"),
    ],
    ids=["function", "type", "schema", "table", "column"],
)
def test_the_file_that_should_have_created_the_object_is_named(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, maker: str, user: str
) -> None:
    database.execute("CREATE TABLE there ()")
    migrations_dir.write("000.sql", "SELECT 1/0")
    migrations_dir.write("001.sql", maker)
    migrations_dir.write("002.sql", user)
    *_, event = run().named("migration.failed")
    named = "000.sql, 001.sql" if "zip" in user else "001.sql"  # a column's name may be a secret
    assert event["advice"] == f"Fix {named} first; this error is probably caused by its failure."


def test_an_earlier_failure_that_was_fixed_does_not_count(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE users (id int, bad nowhere_type)")
    migrations_dir.write("002.sql", "SELECT * FROM users")
    run()
    migrations_dir.write("001.sql", "CREATE TABLE customers (id int)")
    event = explained(run)
    assert (event["after_failure"], event["advice"]) == (False, ADVICE["42P01"])
