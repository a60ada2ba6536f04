"""Files that break the runner's assumptions: each has a defined outcome and does not affect the files around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Process, Run

NO_TRANSACTION = "-- migrate:no-transaction\n"
REMOVED = "removed its row from _migrations"
REFUSED = {
    "drops the table": ("DROP TABLE _migrations", REMOVED),
    "renames the table": ("ALTER TABLE _migrations RENAME TO elsewhere", REMOVED),
    "renames a column": ("ALTER TABLE _migrations RENAME name TO title", REMOVED),
    "moves the table": ("CREATE SCHEMA attic; ALTER TABLE _migrations SET SCHEMA attic", REMOVED),
    "drops the schema": ("DROP SCHEMA public CASCADE; CREATE SCHEMA public", REMOVED),
    "renames the schema": ("ALTER SCHEMA public RENAME TO attic; CREATE SCHEMA public", REMOVED),
    "drops all that it owns": ("DROP OWNED BY CURRENT_USER", REMOVED),
    "empties the table": ("TRUNCATE _migrations", REMOVED),
    "deletes its row": ("DELETE FROM _migrations WHERE name = '001.sql'", REMOVED),
    "drops the table unnamed": ("DO $$BEGIN EXECUTE 'DROP TABLE _migra' || 'tions'; END$$", REMOVED),
    "drops the table by a function": ("SELECT drop_it()", REMOVED),
    "drops the table by a function in a block": ("DO $$BEGIN PERFORM drop_it(); END$$", REMOVED),
    "drops the table as another role": ("SET ROLE {member}; DROP TABLE _migrations", "must be owner"),
    "drops the table outside of a transaction": (f"{NO_TRANSACTION}SELECT 1;\nDROP TABLE _migrations", "must not use"),
    "renames it outside of a transaction": (f'{NO_TRANSACTION}ALTER TABLE "_migrations" RENAME TO x', "must not use"),
    "ends the transaction": ("INSERT INTO effects VALUES (1); COMMIT; SELECT 1", "COMMIT: "),
    "ends it in a procedure": ("CALL ends_transaction()", "invalid transaction termination"),
    "ends the session": ("SELECT pg_terminate_backend(pg_backend_pid())", "3 attempts"),
    "holds a NUL": ("SELECT 1;\nSELECT 'a\0b'", "NUL"),
    "raises a NUL": (r"DO $$BEGIN RAISE 'a%b', E'\x00'; END$$", "0x00"),
    "raises a megabyte": ("DO $$BEGIN RAISE '%', repeat('x', 1048576); END$$", "xxxx"),
    "fills the server's log with notices and fails": (
        "DO $$BEGIN FOR n IN 1..2000 LOOP RAISE NOTICE '%', repeat('y', 100); END LOOP; RAISE 'so much'; END$$",
        "so much",
    ),
    "reads escapes otherwise": ("SET standard_conforming_strings = off; SELECT 1", "E'...'"),
}
HARMLESS = {
    "unlocks the lock": f"SELECT pg_advisory_unlock({LOCK_KEY})",
    "unlocks every lock": "SELECT pg_advisory_unlock_all()",
    "unlocks it outside of a transaction": f"{NO_TRANSACTION}SELECT pg_advisory_unlock_all()",
    "discards all": f"{NO_TRANSACTION}DISCARD ALL",
    "locks it once more": f"SELECT pg_advisory_lock({LOCK_KEY})",
    "changes the search_path": "CREATE SCHEMA other; SET search_path = other",
    "empties the search_path": "SELECT set_config('search_path', '', false)",
    "changes the role": "SET ROLE {member}",
    "changes the role and looks": "SET ROLE {member}; SELECT 1",
    "changes the session_authorization": "SET SESSION AUTHORIZATION {member}; SELECT 1",
    "switches triggers off": "SET session_replication_role = replica",
    "sets timeouts": "SET statement_timeout = '1ms'; SET lock_timeout = '1ms'",
    "sets a timeout for transactions": "SET idle_in_transaction_session_timeout = '1ms'",
    "sets an idle timeout": f"{NO_TRANSACTION}SET idle_session_timeout = '200ms'",
    "is deferred": "SET CONSTRAINTS ALL DEFERRED; SET default_transaction_deferrable = on",
    "goes read-only": "SET default_transaction_read_only = on",
    "notifies": "LISTEN probe; NOTIFY probe, 'x'",
    "fills temporary tables": "CREATE TEMP TABLE probe AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 20000)",
    "locks the table": "LOCK TABLE _migrations IN ACCESS EXCLUSIVE MODE",
    "adds a column to the table": "ALTER TABLE _migrations ADD COLUMN note text",
    "tidies up the table": "DELETE FROM _migrations WHERE name = 'long gone.sql'",
    "shadows the catalog": "CREATE FUNCTION public.pg_try_advisory_xact_lock(bigint) RETURNS bool"
    " LANGUAGE sql AS 'SELECT false'; SET search_path = public, pg_catalog",
    "shadows the operators": "CREATE FUNCTION public.no(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'; CREATE"
    " OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.no); SET search_path = public, pg_catalog",
    "holds nothing": "-- nothing\n;;",
}

SWALLOWING = {
    "a trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    " CREATE TRIGGER t BEFORE INSERT ON _migrations FOR EACH ROW EXECUTE FUNCTION f()",
    "a rule": "CREATE RULE r AS ON INSERT TO _migrations DO INSTEAD NOTHING",
}


@pytest.fixture
def stage(database: Database) -> Iterator[Callable[[str], str]]:
    """Create the objects that the files need; make the owner a superuser, like many roles that run migrations."""
    member = f"{database.owner}_member"
    database.admin_execute(f"CREATE ROLE {member}; ALTER ROLE {database.owner} SUPERUSER")
    database.execute(
        f"""
        CREATE TABLE effects (n int);
        CREATE FUNCTION drop_it() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE _migrations; END';
        CREATE PROCEDURE ends_transaction() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
        GRANT ALL ON effects TO {member}; GRANT USAGE ON SCHEMA public TO {member};
        """
    )
    yield lambda text: text.replace("{member}", member)
    database.admin_execute(f"DROP OWNED BY {member}; DROP ROLE {member}")


def check(database: Database, ended: Run, hostile: str) -> None:
    """Assert that the files before and after it are applied once each and nothing is left behind."""
    applied = sorted({"000.sql", "002.sql", "003.sql", *({"001.sql"} if hostile == "applied" else set())})
    assert [name for (name,) in database.query("SELECT name FROM public._migrations ORDER BY name")] == applied
    assert database.query("SELECT n FROM effects ORDER BY n") == [(0,), (2,), (3,)]
    assert ended.report["applied"] == len(applied)
    assert ended.exit_code == (0 if hostile == "applied" else 1)
    assert database.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def write_around(migrations_dir: MigrationsDir, hostile: str) -> None:
    migrations_dir.write("000.sql", "INSERT INTO effects VALUES (0)")
    migrations_dir.write("001.sql", hostile)
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2)")
    migrations_dir.write("003.sql", "SELECT 1; INSERT INTO effects VALUES (3)")


@pytest.mark.parametrize("act", REFUSED)
def test_a_file_that_would_undo_the_runners_work_fails_but_the_others_succeed(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, stage: Callable[[str], str], act: str
) -> None:
    text, says = REFUSED[act]
    write_around(migrations_dir, stage(text))
    ended = run()
    (failed,) = ended.named("migration.failed")
    assert (failed["migration"], says in failed["error"]) == ("001.sql", True), failed
    assert len(ended.report["message"]) < 5000
    check(database, ended, "failed")


@pytest.mark.parametrize("act", HARMLESS)
def test_a_file_that_disturbs_the_session_is_applied_without_affecting_the_others(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, stage: Callable[[str], str], act: str
) -> None:
    write_around(migrations_dir, stage(HARMLESS[act]))
    ended = run()
    assert ended.named("migration.failed") == []
    assert ended.named("connection.lost") == []
    check(database, ended, "applied")


@pytest.mark.parametrize("act", [act for act, text in HARMLESS.items() if not text.startswith(NO_TRANSACTION)])
def test_a_file_that_disturbs_the_session_does_not_affect_others_behind_a_pooler(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    stage: Callable[[str], str],
    pgbouncer: PgBouncer,
    act: str,
) -> None:
    write_around(migrations_dir, stage(HARMLESS[act]))
    check(database, run(DATABASE_URL=database.dsn_at(pgbouncer.port)), "applied")


@pytest.mark.parametrize("act", SWALLOWING)
@pytest.mark.parametrize("when", ["before the run", "by a file"])
def test_no_file_takes_effect_if_the_table_discards_rows(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, act: str, when: str
) -> None:
    """Without its row, a file would be run again."""
    database.execute("CREATE TABLE effects (n int)")
    migrations_dir.write("000.sql", SWALLOWING[act] if when == "by a file" else "INSERT INTO effects VALUES (0)")
    if when == "before the run":
        assert run().exit_code == 0
        database.execute(SWALLOWING[act])
    migrations_dir.write("001.sql", "INSERT INTO effects VALUES (1)")
    ended = run()
    assert (ended.exit_code, ended.named("migration.failed")[0]["migration"]) == (1, "001.sql")
    assert f"which has the {act.removeprefix('a ')} " in ended.named("migration.failed")[0]["error"]
    assert database.query("SELECT count(*) FROM effects WHERE n = 1") == [(0,)]


def test_another_runner_is_kept_out_after_a_file_has_released_the_lock(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE effects (n int, who int DEFAULT pg_backend_pid()); CREATE TABLE gate (n int)")
    migrations_dir.write("001.sql", "SELECT pg_advisory_unlock_all()")
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2); SELECT * FROM gate")
    migrations_dir.write("003.sql", "INSERT INTO effects VALUES (3)")
    at_gate = "SELECT 1 FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted"
    with database.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        first = start()
        eventually(lambda: database.query(at_gate))
        second = start()
        second.wait_for("lock.waiting")
    assert [process.finish().exit_code for process in (first, second)] == [0, 0]
    assert database.query("SELECT n FROM effects ORDER BY n") == [(2,), (3,)]


def test_a_no_transaction_file_after_a_released_lock_waits_for_its_new_holder(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE effects (n int); CREATE TABLE gate (n int)")
    migrations_dir.write("001.sql", "SELECT pg_advisory_unlock_all(); SELECT * FROM gate")
    migrations_dir.write("002.sql", f"{NO_TRANSACTION}INSERT INTO effects VALUES (2)")
    at_gate = "SELECT 1 FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted"
    with database.connect() as foreign:
        with database.connect(autocommit=False) as keeper:
            keeper.execute("LOCK TABLE gate")
            process = start()
            eventually(lambda: database.query(at_gate))
            holds = f"SELECT pg_try_advisory_lock({LOCK_KEY})"
            assert foreign.execute(holds).fetchone() == (False,), "the transaction must hold the lock too"
            keeper.rollback()
            eventually(lambda: foreign.execute(holds).fetchone() == (True,))
        if process.running and not database.query("SELECT FROM effects"):
            process.wait_for("lock.waiting")
            assert database.query("SELECT FROM effects") == []
    assert process.finish().exit_code == 0
    assert database.query("SELECT n FROM effects") == [(2,)]


def test_a_file_of_200_megabytes_is_applied(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    line = "INSERT INTO big VALUES ('" + "x" * 99_960 + "');\n"
    path = migrations_dir.path / "001.sql"
    with path.open("w") as file:
        file.write("CREATE TABLE big (t text);\n")
        for _ in range(2100):
            file.write(line)
    assert path.stat().st_size > 200 * 2**20
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    ended = start().finish(timeout=150)
    assert (ended.exit_code, ended.report["applied"]) == (0, 2)
    assert database.query("SELECT count(*), sum(length(t)) FROM big") == [(2100, 2100 * 99_960)]
