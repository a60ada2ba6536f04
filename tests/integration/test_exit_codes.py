"""Every exit code, produced by a real run; log, termination message and exit status agree."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import Database, fresh_database
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer
from tests.support.proxy import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Program, Run

SLEEPING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


@dataclass(frozen=True)
class Stage:
    """What a case may use: the program, its database, its files, and a temporary directory."""

    program: Program
    database: Database
    migrations_dir: MigrationsDir
    tmp_path: Path

    def run(self, *args: str, **variables: str | None) -> Run:
        return self.program.start(*args, **self._with_termination_log(variables)).finish()

    def run_against(self, dsn: str) -> Run:
        return self.run(DATABASE_URL=dsn)

    def run_and_terminate(self) -> Run:
        self.migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
        process = self.program.start(**self._with_termination_log({}))
        eventually(lambda: self.database.query(SLEEPING))
        process.terminate()
        return process.finish()

    @property
    def termination_log(self) -> Path:
        return self.tmp_path / "termination-log"

    def _with_termination_log(self, variables: dict[str, str | None]) -> dict[str, str | None]:
        return {"MIGRATE_TERMINATION_LOG": str(self.termination_log), **variables}


def file_applied(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "CREATE TABLE t ()")
    return stage.run()


def no_files(stage: Stage) -> Run:
    return stage.run()


def no_directory(stage: Stage) -> Run:
    return stage.run(MIGRATIONS_DIR=str(stage.tmp_path / "nowhere"))


def nothing_pending(stage: Stage) -> Run:
    file_applied(stage)
    return stage.run("check")


def healthy(stage: Stage) -> Run:
    return stage.run("health")


def failing_file(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "SELECT 1/0")
    stage.migrations_dir.write("002.sql", "CREATE TABLE t ()")
    return stage.run()


def unreadable_file(stage: Stage) -> Run:
    (stage.migrations_dir.path / "001.sql").mkdir()
    return stage.run()


def no_url(stage: Stage) -> Run:
    return stage.run(DATABASE_URL=None)


def malformed_url(stage: Stage) -> Run:
    return stage.run_against("mysql://someone:hunter2@127.0.0.1/app")


def malformed_setting(stage: Stage) -> Run:
    return stage.run(MIGRATE_RETRIES="many")


def unknown_option(stage: Stage) -> Run:
    return stage.run("--force")


def unlisted_directory(stage: Stage) -> Run:
    return stage.run(MIGRATIONS_DIR=str(stage.migrations_dir.write("file", "")))


def files_required(stage: Stage) -> Run:
    return stage.run(MIGRATE_REQUIRE_FILES="true")


def nothing_listens(stage: Stage) -> Run:
    return stage.run(
        DATABASE_URL=f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app", MIGRATE_WAIT_TIMEOUT="300ms"
    )


def unhealthy(stage: Stage) -> Run:
    return stage.run("health", DATABASE_URL=f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app")


def lock_held(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with stage.database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        return stage.run(MIGRATE_LOCK_WAIT_TIMEOUT="300ms")


def wrong_password(stage: Stage) -> Run:
    database = stage.database
    return stage.run_against(database.server.dsn(database.name, database.owner, "not the password"))


def unknown_database(stage: Stage) -> Run:
    database = stage.database
    return stage.run_against(database.server.dsn("nowhere", database.owner, database.password))


def tls_required(stage: Stage) -> Run:
    return stage.run_against(f"{stage.database.dsn}?sslmode=require")


def may_not_lock(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "SELECT 1")
    stage.database.admin_execute("REVOKE EXECUTE ON FUNCTION pg_try_advisory_lock(bigint) FROM PUBLIC")
    return stage.run()


def table_locked(stage: Stage) -> Run:
    file_applied(stage)
    stage.database.admin_execute(f"ALTER ROLE {stage.database.owner} SET lock_timeout = '100ms'")
    with stage.database.connect(autocommit=False) as other:
        other.execute("LOCK TABLE _migrations")
        return stage.run()


def server_lost_permanently(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "CREATE TABLE t ()")
    stage.migrations_dir.write("002.sql", "SELECT pg_sleep(60)")
    with PostgresServer() as server, fresh_database(server) as database:
        variables = {"DATABASE_URL": database.dsn, "MIGRATE_WAIT_TIMEOUT": "1"}
        process = stage.program.start(**variables, MIGRATE_TERMINATION_LOG=str(stage.termination_log))
        eventually(lambda: database.query(SLEEPING))
        server.stop("immediate")
        run = process.finish()
        server.start()
        assert run.report["applied"] == 1
        assert database.query("SELECT name FROM _migrations") == [("001.sql",)]
    return run


def pending(stage: Stage) -> Run:
    stage.migrations_dir.write("001.sql", "CREATE TABLE t ()")
    return stage.run("check")


def broken_library(stage: Stage) -> Run:
    """An empty module that shadows the real one, as in a broken installation."""
    (stage.tmp_path / "shadow").mkdir()
    (stage.tmp_path / "shadow" / "tenacity.py").write_text("")
    variables = {"DATABASE_URL": f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app"}
    return stage.run(PYTHONPATH=str(stage.tmp_path / "shadow"), **variables)


def sigterm(stage: Stage) -> Run:
    return stage.run_and_terminate()


@pytest.mark.parametrize(
    ("case", "exit_code", "outcome"),
    [
        (file_applied, 0, "succeeded"),
        (no_files, 0, "succeeded"),
        (no_directory, 0, "succeeded"),
        (nothing_pending, 0, "succeeded"),
        (healthy, 0, "succeeded"),
        (failing_file, 1, "failed"),
        (unreadable_file, 1, "failed"),
        (no_url, 2, "misconfigured"),
        (malformed_url, 2, "misconfigured"),
        (malformed_setting, 2, "misconfigured"),
        (unknown_option, 2, "misconfigured"),
        (unlisted_directory, 2, "misconfigured"),
        (files_required, 2, "misconfigured"),
        (nothing_listens, 3, "unreachable"),
        (unhealthy, 3, "unreachable"),
        pytest.param(
            *(table_locked, 3, "unreachable"),
            marks=pytest.mark.direct("a backend kept by a pooler does not have the role's new settings"),
        ),
        (lock_held, 4, "locked"),
        (wrong_password, 5, "refused"),
        (unknown_database, 5, "refused"),
        (tls_required, 5, "refused"),
        (may_not_lock, 5, "refused"),
        (server_lost_permanently, 6, "connection_lost"),
        (pending, 10, "pending"),
        (broken_library, 70, "crashed"),
        (sigterm, 143, "interrupted"),
    ],
)
def test_exit_code(
    program: Program,
    database: Database,
    migrations_dir: MigrationsDir,
    tmp_path: Path,
    case: Callable[[Stage], Run],
    exit_code: int,
    outcome: str,
) -> None:
    stage = Stage(program, database, migrations_dir, tmp_path)
    run = case(stage)
    assert (run.exit_code, run.report["exit_code"], run.report["outcome"]) == (exit_code, exit_code, outcome)
    assert len(run.named("run.finished")) == 1
    sentence, _, summary = stage.termination_log.read_text().partition("\n")
    counted = re.sub(r" \(.*?\)", "", run.report["message"]) if run.report["failed"] else run.report["message"]
    assert sentence.startswith(counted)
    logged = json.loads(summary)
    assert {key: run.report[key] for key in logged} == logged
    assert (logged["exit_code"], logged["outcome"]) == (exit_code, outcome)


def test_a_crash_is_logged_once_with_its_location_and_without_the_password(
    program: Program, database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> None:
    run = broken_library(Stage(program, database, migrations_dir, tmp_path))
    (crash,) = run.named("run.crashed")
    assert "tenacity" in crash["message"]
    assert any("connect.py" in frame for frame in crash["traceback"])
