"""BEGIN and COMMIT in files: the transaction mode applies, and each transaction is committed as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.migrations.directory import MAX_KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

WRAPPED = {  # the file, and the level that it runs in
    "BEGIN;\n{};\nCOMMIT;\n": "read committed",
    "{};": "read committed",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, DEFERRABLE;\n{};\nEND;": "serializable",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n{};": "repeatable read",
    "BEGIN;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n{};\nCOMMIT;": "serializable",
    "BEGIN TRANSACTION ISOLATION LEVEL READ UNCOMMITTED;\n{};\nCOMMIT": "read uncommitted",
    "BEGIN WORK; -- nothing special\n{};\nEND TRANSACTION": "read committed",
}
RECORD = "INSERT INTO levels VALUES ({}, current_setting('transaction_isolation'))"


@pytest.fixture(autouse=True)
def _tables(database: Database) -> None:
    database.execute("CREATE TABLE levels (n int, level text); CREATE TABLE effects (n int, filler text)")


def write_wrapped(migrations_dir: MigrationsDir) -> list[tuple[int, str]]:
    for number, template in enumerate(WRAPPED):
        migrations_dir.write(f"{number:03}.sql", template.format(RECORD.format(number)))
    return list(enumerate(WRAPPED.values()))


def test_each_file_runs_in_its_own_mode(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    expected = write_wrapped(migrations_dir)
    rehearsed = run("plan", "--rehearse")
    assert (rehearsed.exit_code, rehearsed.report["rehearsed"]) == (0, len(WRAPPED))
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, len(WRAPPED))
    assert database.query("SELECT n, level FROM levels ORDER BY n") == expected


def test_a_single_file_runs_in_its_mode(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", f"BEGIN ISOLATION LEVEL SERIALIZABLE;\n{RECORD.format(1)};\nCOMMIT;")
    assert run().exit_code == 0
    assert database.query("SELECT level FROM levels") == [("serializable",)]


@pytest.mark.direct("the test has its own pooler")
def test_a_file_runs_in_its_mode_through_a_pooler(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: object
) -> None:
    expected = write_wrapped(migrations_dir)
    ended = run(DATABASE_URL=database.dsn_at(pgbouncer.port))  # type: ignore[attr-defined]
    assert (ended.exit_code, ended.report["applied"]) == (0, len(WRAPPED))
    assert database.query("SELECT n, level FROM levels ORDER BY n") == expected


@pytest.mark.parametrize("others", [0, 2])
def test_a_serialization_failure_is_retried(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, others: int
) -> None:
    database.execute("CREATE SEQUENCE attempts")
    fails_once = "DO $$BEGIN IF nextval('attempts') = 1 THEN RAISE 'no' USING ERRCODE = '40001'; END IF; END$$"
    migrations_dir.write("001.sql", f"BEGIN ISOLATION LEVEL SERIALIZABLE; {fails_once}; {RECORD.format(1)}; COMMIT")
    for number in range(others):
        migrations_dir.write(f"000{number}.sql", RECORD.format(number + 2))
    ended = run()
    assert (ended.exit_code, len(ended.named("migration.retrying"))) == (0, 1)
    assert database.query("SELECT level FROM levels WHERE n = 1") == [("serializable",)]


def test_read_only_is_rejected(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "\nSET TRANSACTION READ ONLY;\nSELECT 1;")
    (failed,) = run().named("migration.failed")
    assert (failed["line"], "remove READ ONLY" in failed["error"]) == (2, True)


def test_a_mode_that_is_set_too_late_is_explained(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;")
    (failed,) = run().named("migration.failed")
    assert (failed["line"], failed["sqlstate"]) == (2, "25001")
    assert failed["advice"].startswith("Put SET TRANSACTION at the beginning")


def write_big(migrations_dir: MigrationsDir, ending: str) -> Path:
    rows = "".join(f"INSERT INTO effects VALUES ({number}, '{'x' * 1000}');\n" for number in range(5000))
    sql = f"BEGIN ISOLATION LEVEL REPEATABLE READ;\n{rows}{RECORD.format(0)};\n{ending}"
    path = migrations_dir.write("001.sql", sql)
    assert path.stat().st_size > MAX_KEPT_BYTES
    return path


def test_a_big_file_may_be_wrapped_too(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    write_big(migrations_dir, "COMMIT;\n-- the end\n")
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert database.query("SELECT level, (SELECT count(*) FROM effects) FROM levels") == [("repeatable read", 5000)]


@pytest.mark.parametrize(
    ("ending", "line", "says"),
    [
        ("", 1, "BEGIN: there is no matching COMMIT"),
        ("COMMIT;\nSELECT 1;", 5003, "COMMIT: each migration runs in one transaction, so no statement may follow"),
        ("ROLLBACK;", 5003, "ROLLBACK: "),
        ("SELECT 1 / 0;COMMIT;", 5003, "division by zero"),
    ],
)
def test_a_big_file_is_rolled_back_completely(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, ending: str, line: int, says: str
) -> None:
    write_big(migrations_dir, ending)
    ended = run()
    (failed,) = ended.named("migration.failed")
    assert (ended.exit_code, failed["line"]) == (1, line)
    assert failed["error"].startswith(says)
    assert database.query("SELECT (SELECT count(*) FROM effects), (SELECT count(*) FROM _migrations)") == [(0, 0)]


# Blocks in no-transaction migrations

BEFORE = "-- migrate:no-transaction\nINSERT INTO effects VALUES (1);\nINSERT INTO effects VALUES (2);\n"
NO_SESSION = "no-transaction migrations need a session"


@pytest.mark.session(NO_SESSION)
def test_a_block_runs_as_one_transaction(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    block = "{};\nINSERT INTO effects SELECT txid_current();\nINSERT INTO effects SELECT txid_current();\n{};\n"
    blocks = block.format("BEGIN ISOLATION LEVEL SERIALIZABLE", f"{RECORD.format(1)};\nCOMMIT") + block.format(
        "BEGIN", "END"
    )
    index = "CREATE INDEX CONCURRENTLY i ON effects (n);\n"
    migrations_dir.write("001.sql", f"-- migrate:no-transaction\n{blocks}{index}")
    assert run("plan").exit_code == 0
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert database.query("SELECT count(*), count(DISTINCT n) FROM effects") == [(4, 2)]
    assert database.query("SELECT level FROM levels") == [("serializable",)]


FAILING_BLOCKS = {
    "a statement": ("BEGIN;\nINSERT INTO effects VALUES (3);\nSELECT 1 / 0;\nCOMMIT;", 6, "22012"),
    "its COMMIT": ("BEGIN;\nINSERT INTO deferred VALUES (3);\nCOMMIT;", 6, "23505"),
    "the first": ("BEGIN;\nSELECT 1 / 0;\nCOMMIT;", 5, "22012"),
    "no block": ("BEGIN;\nCOMMIT;\nSELECT 1 / 0;", 6, "22012"),
    "a concurrent build": ("BEGIN;\nCREATE INDEX CONCURRENTLY i ON effects (n);\nCOMMIT;", 5, "25001"),
}


@pytest.mark.session(NO_SESSION)
@pytest.mark.parametrize("where", FAILING_BLOCKS)
def test_a_block_that_fails_is_rolled_back_and_the_earlier_statements_are_counted(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, where: str
) -> None:
    block, line, sqlstate = FAILING_BLOCKS[where]
    database.execute("CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    database.execute("INSERT INTO deferred VALUES (3)")
    migrations_dir.write("001.sql", BEFORE + block)
    migrations_dir.write("002.sql", "SELECT 1")
    ended = run()
    (failed,) = ended.named("migration.failed")
    assert (failed["line"], failed["sqlstate"], ended.report["applied"]) == (line, sqlstate, 1)
    rolled_back = (
        "the transaction block was rolled back; 2 earlier statements have taken effect and cannot be rolled back"
    )
    alone = "4 earlier statements have taken effect and cannot be rolled back"
    assert failed["hint"] == (alone if where == "no block" else rolled_back)
    assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (2,)]
    assert ended.named("postgres.notice") == []
    if sqlstate == "25001":
        assert failed["advice"].startswith("Move the statement out of the BEGIN ... COMMIT block")


@pytest.mark.session(NO_SESSION)
@pytest.mark.parametrize(
    "ending", ["BEGIN;\nSELECT 1;", "BEGIN;\nROLLBACK;", "COMMIT;", "BEGIN;\nBEGIN;\nCOMMIT;\nEND;"]
)
def test_an_unbalanced_block_is_rejected_before_anything_runs(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, ending: str
) -> None:
    migrations_dir.write("001.sql", BEFORE + ending)
    (failed,) = run().named("migration.failed")
    assert "sqlstate" not in failed
    assert failed["line"] in {4, 5}
    assert database.query("SELECT count(*) FROM effects") == [(0,)]
