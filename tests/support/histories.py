"""The history tables of other tools, created with the tools' own DDL and filled with rows as the tools write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256, sha384
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir

SQL = "CREATE TABLE t{0} (id int);\nINSERT INTO t{0} VALUES (1);\n"


def _values(rows: Sequence[str]) -> str:
    return ", ".join(f"({row})" for row in rows)


@dataclass(frozen=True)
class OldTool:
    """A migration tool and its history table.

    `name` is the argument of `--from`, and `file` is the pattern of the tool's file names. `row` returns the values of
    a file's row, given the file's number, name and text. `broken` holds the values of a row for file 2 that is failed,
    dirty or unfinished.
    """

    name: str
    table: str
    ddl: str
    file: str
    row: Callable[[int, str, bytes], str]
    columns: str = ""
    proof: str = "version"
    broken: str = ""
    one_row: bool = False
    stray: str = ""  # the values of a row without a file; `stray_name` is its name in the log
    stray_name: str = ""
    initial: tuple[str, ...] = field(default=())

    def names(self, count: int) -> list[str]:
        """Return the names of the first `count` files."""
        return [self.file.format(number) for number in range(1, count + 1)]

    def write_files(self, migrations_dir: MigrationsDir, count: int) -> list[str]:
        """Write the first `count` files and return their names."""
        for number, name in enumerate(self.names(count), 1):
            (migrations_dir.path / name).parent.mkdir(exist_ok=True)
            migrations_dir.write(name, SQL.format(number))
        return self.names(count)

    def make(self, database: Database, applied: Sequence[int], *extra: str) -> None:
        """Create the table with rows for the files numbered in `applied`, and run those files, as the tool would do."""
        database.execute(self.ddl)
        rows = [self.row(n, self.file.format(n), SQL.format(n).encode()) for n in applied]
        rows = [*self.initial, *(rows[-1:] if self.one_row else rows), *extra]
        if rows:
            database.execute(f"INSERT INTO {self.table} {self.columns} VALUES {_values(rows)}")
        for number in applied:
            database.execute(SQL.format(number))


def _stem(name: str) -> str:
    return name.removesuffix(".sql")


def _folder(name: str) -> str:
    return name.partition("/")[0]


_FLYWAY = """
    CREATE TABLE "public"."{0}" (
        "installed_rank" INT NOT NULL, "version" VARCHAR(50), "description" VARCHAR(200) NOT NULL,
        "type" VARCHAR(20) NOT NULL, "script" VARCHAR(1000) NOT NULL, "checksum" INTEGER,
        "installed_by" VARCHAR(100) NOT NULL, "installed_on" TIMESTAMP NOT NULL DEFAULT now(),
        "execution_time" INTEGER NOT NULL, "success" BOOLEAN NOT NULL
    );
    ALTER TABLE "public"."{0}" ADD CONSTRAINT "{0}_pk" PRIMARY KEY ("installed_rank");
    CREATE INDEX "{0}_s_idx" ON "public"."{0}" ("success")
"""


def flyway_row(rank: int, version: str | None, script: str, kind: str = "SQL", success: str = "true") -> str:
    """Return the values of a row in Flyway's history table."""
    number = "NULL" if version is None else f"'{version}'"
    return f"{rank}, {number}, 'd', '{kind}', '{script}', 12345, 'app', now(), 1, {success}"


def _flyway(name: str) -> OldTool:
    return OldTool(
        "flyway",
        name,
        _FLYWAY.format(name),
        "V{}__x.sql",
        lambda n, file, _: flyway_row(n, str(n), file),
        initial=(flyway_row(0, None, '"public"', "SCHEMA"),),
        broken=flyway_row(99, "2", "V2__x.sql", success="false"),
        stray=flyway_row(98, "0.5", "V0_5__gone.sql"),
        stray_name="V0_5__gone.sql",
    )


_PRISMA_ROW = "gen_random_uuid(), '{checksum}', {finished}, '{name}', NULL, {rolled_back}, now(), 1"


def prisma_row(name: str, checksum: str = "0" * 64, finished: str = "now()", rolled_back: str = "NULL") -> str:
    """Return the values of a row in Prisma's history table."""
    return _PRISMA_ROW.format(name=name, checksum=checksum, finished=finished, rolled_back=rolled_back)


_DRIZZLE = "CREATE SCHEMA drizzle; CREATE TABLE drizzle.__drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint)"  # noqa: E501
_SQITCH = """
    CREATE SCHEMA sqitch;
    CREATE TABLE sqitch.projects (project TEXT PRIMARY KEY);
    CREATE TABLE sqitch.changes (
        change_id TEXT PRIMARY KEY, script_hash TEXT NULL, change TEXT NOT NULL,
        project TEXT NOT NULL REFERENCES sqitch.projects (project) ON UPDATE CASCADE, note TEXT NOT NULL DEFAULT '',
        committed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(), committer_name TEXT NOT NULL,
        committer_email TEXT NOT NULL, planned_at TIMESTAMPTZ NOT NULL, planner_name TEXT NOT NULL,
        planner_email TEXT NOT NULL, UNIQUE (project, script_hash)
    );
    INSERT INTO sqitch.projects VALUES ('app');
    INSERT INTO sqitch.changes VALUES ('1', '2', 'users', 'app', '', now(), 'a', 'a', now(), 'a', 'a')
"""

IMPORTABLE = [
    OldTool(
        "dbmate",
        "schema_migrations",
        "CREATE TABLE IF NOT EXISTS public.schema_migrations (version varchar(255) PRIMARY KEY)",
        "2024010100000{}_x.sql",
        lambda n, *_: f"'2024010100000{n}'",
        stray="'19990101000000'",
        stray_name="19990101000000",
    ),
    OldTool(
        "golang-migrate",
        "schema_migrations",
        'CREATE TABLE IF NOT EXISTS "public"."schema_migrations" '
        "(version bigint not null primary key, dirty boolean not null)",
        "00000{}_x.up.sql",
        lambda n, *_: f"{n}, false",
        one_row=True,
        broken="2, true",
    ),
    OldTool(
        "goose",
        "goose_db_version",
        "CREATE TABLE goose_db_version (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "
        "version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())",
        "0000{}_x.sql",
        lambda n, *_: f"{n}, true",
        columns="(version_id, is_applied)",
        initial=("0, true",),
        stray="77, true",
        stray_name="77",
    ),
    _flyway("flyway_schema_history"),
    _flyway("schema_version"),
    OldTool(
        "prisma",
        "_prisma_migrations",
        "CREATE TABLE _prisma_migrations (id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL, "
        "finished_at TIMESTAMPTZ, migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ, "
        "started_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_steps_count INTEGER NOT NULL DEFAULT 0)",
        "2024010100000{}_x.sql",
        lambda _, file, text: prisma_row(_stem(file), sha256(text).hexdigest()),
        proof="checksum",
        broken=prisma_row("20240101000002_x", finished="NULL"),
        stray=prisma_row("19990101000000_gone"),
        stray_name="19990101000000_gone",
    ),
    OldTool(
        "sqlx",
        "_sqlx_migrations",
        "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, "
        "installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, "
        "execution_time BIGINT NOT NULL)",
        "000{}_x.sql",
        lambda n, _, text: rf"{n}, 'x', now(), true, '\x{sha384(text).hexdigest()}', 1",
        proof="checksum",
        broken="99, 'x', now(), false, '', -1",
        stray="77, 'x', now(), true, '', 1",
        stray_name="77",
    ),
    OldTool(
        "supabase",
        "supabase_migrations.schema_migrations",
        "CREATE SCHEMA supabase_migrations; "
        "CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations (version text NOT NULL PRIMARY KEY); "
        "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS statements text[]; "
        "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS name text",
        "2024010100000{}_x.sql",
        lambda n, *_: f"'2024010100000{n}', '{{SELECT 1}}', 'x'",
        stray="'19990101000000', NULL, 'gone'",
        stray_name="19990101000000",
    ),
    OldTool(
        "drizzle",
        "drizzle.__drizzle_migrations",
        _DRIZZLE,
        "000{}_x.sql",
        lambda n, _, text: f"'{sha256(text).hexdigest()}', {n}",
        columns="(hash, created_at)",
        proof="checksum",
    ),
    OldTool(
        "drizzle",
        "drizzle.__drizzle_migrations",
        f"{_DRIZZLE}; ALTER TABLE drizzle.__drizzle_migrations ADD COLUMN name text, "
        "ADD COLUMN applied_at timestamp with time zone DEFAULT now(), ADD COLUMN version integer",
        "2024010100000{}_x.sql",
        lambda n, file, text: f"'{sha256(text).hexdigest()}', {n}, '{_stem(file)}', 1",
        columns="(hash, created_at, name, version)",
        proof="checksum",
        stray="'123456789abcdef', 0, 'gone', 1",
        stray_name="123456789abc",
    ),
    OldTool(
        "node-pg-migrate",
        "pgmigrations",
        'CREATE TABLE "public"."pgmigrations" (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, '
        "run_on timestamp NOT NULL)",
        "170000000000{}_x.sql",
        lambda _, file, __: f"'{_stem(file)}', now()",
        columns="(name, run_on)",
        stray="'1600000000000_gone', now()",
        stray_name="1600000000000_gone",
    ),
    OldTool(
        "sql-migrate",
        "gorp_migrations",
        'CREATE TABLE IF NOT EXISTS "gorp_migrations" '
        '("id" text not null primary key, "applied_at" timestamp with time zone)',
        "{}_x.sql",
        lambda _, file, __: f"'{file}', now()",
        stray="'0_gone.sql', now()",
        stray_name="0_gone.sql",
    ),
    OldTool(
        "yoyo",
        "_yoyo_migration",
        "CREATE TABLE _yoyo_migration (migration_hash VARCHAR(64), migration_id VARCHAR(255), "
        "applied_at_utc TIMESTAMP, PRIMARY KEY (migration_hash))",
        "000{}.x.sql",
        lambda n, file, _: f"'{n}', '{_stem(file)}', now()",
        stray="'0', '0000.gone', now()",
        stray_name="0000.gone",
    ),
    OldTool(
        "yoyo",
        "_yoyo_migration",
        "CREATE TABLE _yoyo_migration (id VARCHAR(191) NOT NULL PRIMARY KEY, ctime TIMESTAMP)",
        "000{}.x.sql",
        lambda _, file, __: f"'{_stem(file)}', now()",
        stray="'0000.gone', now()",
        stray_name="0000.gone",
    ),
    OldTool(
        "diesel",
        "__diesel_schema_migrations",
        "CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL, "
        "run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
        "2024-01-01-00000{}_x.sql",
        lambda n, *_: f"'2024010100000{n}', now()",
        stray="'00000000000000', now()",
        stray_name="00000000000000",
    ),
]
IDS = [
    f"{tool.name}-{number}" if tool.name in {"flyway", "drizzle", "yoyo"} else tool.name
    for number, tool in enumerate(IMPORTABLE)
]
BY_ID = dict(zip(IDS, IMPORTABLE, strict=True))

# Histories that do not name SQL files: the argument of --from, the table, and the statements that create it.
_ALEMBIC = """
    CREATE TABLE alembic_version (
        version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
    );
    INSERT INTO alembic_version VALUES ('1975ea83b712')
"""
_DJANGO = """
    CREATE TABLE "django_migrations" (
        "id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "app" varchar(255) NOT NULL,
        "name" varchar(255) NOT NULL, "applied" timestamp with time zone NOT NULL
    );
    INSERT INTO django_migrations (app, name, applied) VALUES ('auth', '0001_initial', now())
"""
_RAILS = """
    CREATE TABLE "schema_migrations" ("version" character varying NOT NULL PRIMARY KEY);
    CREATE TABLE "ar_internal_metadata" (
        "key" character varying NOT NULL PRIMARY KEY, "value" character varying,
        "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL
    );
    INSERT INTO schema_migrations VALUES ('20240101000001')
"""
DETECT_ONLY = {
    "alembic": ("public.alembic_version", _ALEMBIC),
    "django": ("public.django_migrations", _DJANGO),
    "rails": ("public.schema_migrations", _RAILS),
    "sqitch": ("sqitch.changes", _SQITCH),
}
