"""The migration runners: the format of their files, their command lines, and the tables where they record progress."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.install import ROOT, alembic, compiled, dbmate, node_modules, sql_migrate
from benchmarks.measure import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

PG_PREDEPLOY, FLOOR, DBMATE, ALEMBIC = "pg-predeploy", "minimal C runner", "dbmate", "alembic"
WAITING = "node-pg-migrate, waiting"  # by default, it fails if another instance holds its lock


@dataclass(frozen=True, slots=True)
class Runner:
    """A program that applies the migrations in a directory to a database.

    `command` returns the command for a directory and a DSN, or raises `Failed` if the program cannot be installed.
    `count` is the query for the number of applied migrations. `head` and `tail` surround the SQL in each file; in
    `head`, {0} is the file's number and {1} the previous file's number.
    """

    command: Callable[[Path, str], Command]
    count: str
    head: str = ""
    tail: str = ""
    extension: str = ".sql"

    def write_files(self, directory: Path, migrations: Iterable[str]) -> None:
        """Write the migrations as files in this program's format."""
        for number, sql in enumerate(migrations, 1):
            path = directory / f"{number:05d}_migration{self.extension}"
            path.write_text(self.head.format(number, number - 1) + sql + self.tail)


def _pg_predeploy(directory: Path, dsn: str) -> Command:
    variables = {"DATABASE_URL": dsn, "MIGRATIONS_DIR": str(directory), "MIGRATE_LOG_FORMAT": "json"}
    return Command([sys.executable, ROOT / "entrypoint.py"], variables)


def _floor(directory: Path, dsn: str) -> Command:
    return Command([compiled("floor"), directory], {"DATABASE_URL": dsn})


def _dbmate(directory: Path, dsn: str) -> Command:
    return Command([dbmate(), "--migrations-dir", directory, "--no-dump-schema", "migrate"], {"DATABASE_URL": dsn})


def _sql_migrate(directory: Path, dsn: str) -> Command:
    # Debian's version reads the connection string only from a YAML file. JSON is valid YAML.
    config = directory.with_name(f"{directory.name}.yml")
    config.write_text(json.dumps({"bench": {"dialect": "postgres", "datasource": dsn, "dir": str(directory)}}))
    return Command([sql_migrate(), "up", f"-config={config}", "-env=bench"])


def _node_pg_migrate(directory: Path, dsn: str, mode: str = "fail") -> Command:
    program = node_modules() / "node-pg-migrate/bin/node-pg-migrate.js"
    options = ["--migrations-dir", str(directory), "--advisory-lock-mode", mode]
    return Command(["node", program, "up", *options], {"DATABASE_URL": dsn})


ALEMBIC_ENVIRONMENT = """\
import os
from alembic import context
from sqlalchemy import create_engine, pool
engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC_HEAD = """\
from alembic import op
revision = "{0}"
down_revision = "{1}" if {1} else None
def upgrade():
    op.execute('''
"""


def _alembic(directory: Path, dsn: str) -> Command:
    environment = directory.with_name(f"{directory.name}-environment")
    environment.mkdir(exist_ok=True)
    (environment / "env.py").write_text(ALEMBIC_ENVIRONMENT)
    config = environment / "alembic.ini"
    config.write_text(f"[alembic]\nscript_location = {environment}\nversion_locations = {directory}\n")
    url = dsn.replace("postgresql:", "postgresql+psycopg2:")
    return Command([alembic(), "--config", config, "upgrade", "head"], {"DATABASE_URL": url})


def in_container(image: str, arguments: Iterable[str | Path], variables: Mapping[str, str], files: Path) -> Command:
    """Return a `docker run` command with the host's network, and with a host directory mounted at the same path."""
    options = [f"--volume={files}:{files}:ro", *(f"--env={name}={text}" for name, text in variables.items())]
    of_docker = {name: text for name, text in os.environ.items() if name.startswith("DOCKER_")}
    return Command(["docker", "run", "--rm", "--network=host", *options, image, *arguments], of_docker)


RUNNERS = {
    PG_PREDEPLOY: Runner(_pg_predeploy, "SELECT count(*) FROM _migrations"),
    FLOOR: Runner(_floor, "SELECT count(*) FROM _floor"),
    DBMATE: Runner(_dbmate, "SELECT count(*) FROM schema_migrations", "-- migrate:up\n", "\n-- migrate:down\n"),
    "sql-migrate": Runner(_sql_migrate, "SELECT count(*) FROM gorp_migrations", "-- +migrate Up\n"),
    "node-pg-migrate": Runner(_node_pg_migrate, "SELECT count(*) FROM pgmigrations", "-- Up Migration\n"),
    WAITING: Runner(partial(_node_pg_migrate, mode="wait"), "SELECT count(*) FROM pgmigrations", "-- Up Migration\n"),
    ALEMBIC: Runner(_alembic, "SELECT max(version_num)::int FROM alembic_version", ALEMBIC_HEAD, "''')\n", ".py"),
}
