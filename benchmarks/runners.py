"""Everything that applies migrations here: how each wants its files, how it is called and where it keeps its rows."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

from benchmarks.install import ROOT, Unavailable, compiled, debian_program, node, node_modules, python_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.migrations import Migration

HERE = Path(__file__).parent
OURS, FLOOR, NAIVE = "pg-predeploy", "C floor", "naive Python"
DBMATE = "dbmate"


@dataclass(frozen=True, slots=True)
class Call:
    """A process to start."""

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runner:
    """`lay_out` writes migrations into a directory, `call` says how to apply what is there to a database by its DSN.

    `recorded` is the query for how many migrations the runner's own table holds. `call` raises `Unavailable`.
    """

    lay_out: Callable[[Path, Sequence[Migration]], None]
    call: Callable[[Path, str], Call]
    recorded: str


def base_environment(directory: Path) -> dict[str, str]:
    """Return what every process gets: nothing of ours that changes how a runner works."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"}


def ours(directory: Path, dsn: str, **variables: str) -> Call:
    """Call the program as its users do outside of the image."""
    return Call(
        [sys.executable, str(ROOT / "entrypoint.py")],
        {"DATABASE_URL": dsn, "MIGRATIONS_DIR": str(directory), "MIGRATE_LOG_FORMAT": "json", **variables},
    )


def _floor(directory: Path, dsn: str, commit: str = "each") -> Call:
    return Call([str(compiled("floor")), str(directory), commit], {"DATABASE_URL": dsn})


def _naive(directory: Path, dsn: str) -> Call:
    return Call([sys.executable, str(HERE / "naive.py"), str(directory)], {"DATABASE_URL": dsn})


def _plain(directory: Path, migrations: Sequence[Migration], before: str = "", after: str = "") -> None:
    for migration in migrations:
        (directory / f"{migration.number:05d}_{migration.name}.sql").write_text(before + migration.sql + after)


def dbmate_program() -> Path:
    """Return the native program, without the script that npm puts before it."""
    found = list(node_modules().glob("@dbmate/*/bin/dbmate"))
    if len(found) != 1:
        raise Unavailable("npm has no dbmate for this system")
    return found[0]


def _dbmate(directory: Path, dsn: str) -> Call:
    command = [str(dbmate_program()), "--migrations-dir", str(directory), "--no-dump-schema", "migrate"]
    return Call(command, {"DATABASE_URL": dsn})


def _sql_migrate_files(directory: Path, migrations: Sequence[Migration]) -> None:
    _plain(directory, migrations, "-- +migrate Up\n")


def _sql_migrate(directory: Path, dsn: str) -> Call:
    # The last release that Debian has reads its connection from a file only.
    place = directory.with_name(directory.name + ".yml")
    data = {"bench": {"dialect": "postgres", "datasource": dsn, "dir": str(directory)}}
    place.write_text(json.dumps(data))  # which is YAML, too
    return Call([str(debian_program("sql-migrate")), "up", f"-config={place}", "-env=bench"])


def _postgres_migrations(directory: Path, dsn: str) -> Call:
    script = str(HERE / "postgres_migrations.cjs")
    return Call([node(), script, str(directory)], {"DATABASE_URL": dsn, "NODE_PATH": str(node_modules())})


def _node_pg_migrate_files(directory: Path, migrations: Sequence[Migration]) -> None:
    _plain(directory, migrations, "-- Up Migration\n")


def _node_pg_migrate(directory: Path, dsn: str) -> Call:
    program = node_modules() / "node-pg-migrate/bin/node-pg-migrate.js"
    return Call([node(), str(program), "up", "--migrations-dir", str(directory)], {"DATABASE_URL": dsn})


def _graphile_migrate_files(directory: Path, migrations: Sequence[Migration]) -> None:
    committed = directory / "committed"
    committed.mkdir()
    previous = ""
    for migration in migrations:
        body = migration.sql.strip()
        digest = "sha1:" + hashlib.sha1(f"{previous}\n{body}".strip().encode() + b"\n").hexdigest()  # noqa: S324  its way
        header = f"--! Previous: {previous or '-'}\n--! Hash: {digest}\n\n"
        (committed / f"{migration.number:06d}.sql").write_text(header + body + "\n")
        previous = digest


def _graphile_migrate(directory: Path, dsn: str) -> Call:
    place = directory.with_name(directory.name + ".gmrc")
    place.write_text(json.dumps({"connectionString": dsn, "migrationsFolder": str(directory)}))
    program = node_modules() / "graphile-migrate/dist/cli.js"
    return Call([node(), str(program), "--config", str(place), "migrate"])


def _alembic_files(directory: Path, migrations: Sequence[Migration]) -> None:
    (directory / "versions").mkdir()
    (directory / "env.py").write_text(
        "import os\n"
        "from alembic import context\n"
        "from sqlalchemy import create_engine, pool\n"
        "engine = create_engine(os.environ['DATABASE_URL'], poolclass=pool.NullPool)\n"
        "with engine.connect() as connection:\n"
        "    context.configure(connection=connection)\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    (directory / "alembic.ini").write_text(f"[alembic]\nscript_location = {directory}\n")
    previous = None
    for migration in migrations:
        revision = f"{migration.number:05d}"
        (directory / f"versions/{revision}_{migration.name}.py").write_text(
            "from alembic import op\n"
            f"revision = {revision!r}\n"
            f"down_revision = {previous!r}\n"
            f"def upgrade():\n    op.execute({migration.sql!r})\n"
        )
        previous = revision


def _alembic(directory: Path, dsn: str) -> Call:
    command = [str(python_programs() / "alembic"), "--config", str(directory / "alembic.ini"), "upgrade", "head"]
    return Call(command, {"DATABASE_URL": dsn.replace("postgresql:", "postgresql+psycopg2:")})


def _yoyo(directory: Path, dsn: str) -> Call:
    options = ["--batch", "--no-config-file", "--database", dsn]
    return Call([str(python_programs() / "yoyo"), "apply", *options, str(directory)])


def _pgmigrate_files(directory: Path, migrations: Sequence[Migration]) -> None:
    (directory / "migrations").mkdir()
    (directory / "migrations.yml").write_text("{}\n")
    for migration in migrations:
        (directory / f"migrations/V{migration.number:05d}__{migration.name}.sql").write_text(migration.sql)


def _pgmigrate(directory: Path, dsn: str) -> Call:
    known = " ".join(f"{name}={value}" for name, value in conninfo_to_dict(dsn).items())
    return Call([str(python_programs() / "pgmigrate"), "-d", str(directory), "-c", known, "-t", "latest", "migrate"])


RUNNERS: dict[str, Runner] = {
    OURS: Runner(_plain, ours, "SELECT count(*) FROM _migrations"),
    f"{OURS}, MIGRATE_COMMIT=run": Runner(
        _plain, partial(ours, MIGRATE_COMMIT="run"), "SELECT count(*) FROM _migrations"
    ),
    FLOOR: Runner(_plain, _floor, "SELECT count(*) FROM _floor"),
    f"{FLOOR}, flushed once": Runner(_plain, partial(_floor, commit="run"), "SELECT count(*) FROM _floor"),
    NAIVE: Runner(_plain, _naive, "SELECT count(*) FROM _naive"),
    DBMATE: Runner(
        partial(_plain, before="-- migrate:up\n", after="\n-- migrate:down\n"),
        _dbmate,
        "SELECT count(*) FROM schema_migrations",
    ),
    "sql-migrate": Runner(_sql_migrate_files, _sql_migrate, "SELECT count(*) FROM gorp_migrations"),
    "postgres-migrations": Runner(_plain, _postgres_migrations, "SELECT count(*) FROM migrations WHERE id > 0"),
    "node-pg-migrate": Runner(_node_pg_migrate_files, _node_pg_migrate, "SELECT count(*) FROM pgmigrations"),
    "graphile-migrate": Runner(
        _graphile_migrate_files, _graphile_migrate, "SELECT count(*) FROM graphile_migrate.migrations"
    ),
    "alembic": Runner(_alembic_files, _alembic, "SELECT max(version_num)::int FROM alembic_version"),
    "yoyo": Runner(_plain, _yoyo, "SELECT count(*) FROM _yoyo_migration"),
    "pgmigrate": Runner(_pgmigrate_files, _pgmigrate, "SELECT count(*) FROM public.schema_version"),
}
