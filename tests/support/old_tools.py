"""Projects that another migration tool has migrated until now: files in its layout, and a database with its history.

Tools that can be installed from PyPI, npm or Debian create their history themselves. For the other tools, the history
table is created with the tool's DDL.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks import install
from tests.support.histories import IMPORTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.database import Database
    from tests.support.histories import OldTool

    Files = dict[str, str]

NUMBERS = (1, 2, 10)  # in code-point order, 10 sorts before 2
APPLIED = NUMBERS[:2]
# Each migration leaves a row in `seen`, and so would its rollback.
_FORWARD = """
CREATE TABLE IF NOT EXISTS seen (id serial, what text);
CREATE TABLE t{0} (id int);
INSERT INTO seen (what) VALUES ('{0}');
"""
_ROLLBACK = """
DROP TABLE t{0};
INSERT INTO seen (what) VALUES ('{0} rolled back');
"""


@dataclass(frozen=True)
class Project:
    """The directory of an application, and its database."""

    directory: Path
    database: Database

    def write(self, files: Mapping[str, str]) -> None:
        """Write files; the names are relative to the directory."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(self, *command: str | Path, **environment: str) -> str:
        """Run a program in the directory and return its output."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode} of {command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def url(self, scheme: str = "postgres", query: str = "") -> str:
        """Return the connection string in a form that other tools accept."""
        database = self.database
        password = quote(database.password, safe="")
        return f"{scheme}://{database.owner}:{password}@127.0.0.1:{database.server.port}/{database.name}{query}"

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        return sorted(path.name for path in (self.directory / folder).iterdir())

    def seen(self) -> list[str]:
        """Return which migrations and rollbacks have run, in the order in which they ran."""
        return [what for (what,) in self.database.query("SELECT what FROM seen ORDER BY id")]


def _plain(pattern: str) -> Callable[[int], Files]:
    return lambda n: {pattern.format(n): _FORWARD.format(n)}


def _pair(up: str, down: str) -> Callable[[int], Files]:
    return lambda n: {up.format(n): _FORWARD.format(n), down.format(n): _ROLLBACK.format(n)}


def _sections(pattern: str, up: str, down: str) -> Callable[[int], Files]:
    return lambda n: {pattern.format(n): f"-- {up}{_FORWARD.format(n)}\n-- {down}{_ROLLBACK.format(n)}"}


FILES = {
    "dbmate": _sections("db/migrations/202401010000{:02}_x.sql", "migrate:up", "migrate:down"),
    "golang-migrate": _pair("migrations/{}_x.up.sql", "migrations/{}_x.down.sql"),
    "goose": _sections("migrations/{}_x.sql", "+goose Up", "+goose Down"),
    "Flyway": _pair("src/main/resources/db/migration/V{}__x.sql", "src/main/resources/db/migration/U{}__x.sql"),
    "Prisma": _pair(
        "prisma/migrations/202401010000{:02}_x/migration.sql", "prisma/migrations/202401010000{:02}_x/down.sql"
    ),
    "sqlx": _pair("migrations/{:04}_x.up.sql", "migrations/{:04}_x.down.sql"),
    "Supabase": _plain("supabase/migrations/202401010000{:02}_x.sql"),
    "Drizzle": _plain("drizzle/{:04}_x.sql"),
    "node-pg-migrate": _sections("migrations/17000000000{:02}_x.sql", "Up Migration", "Down Migration"),
    "sql-migrate": _sections("migrations/{}_x.sql", "+migrate Up", "+migrate Down"),
    "yoyo": _pair("migrations/{:04}.x.sql", "migrations/{:04}.x.rollback.sql"),
    "diesel": _pair("migrations/2024-01-01-0000{:02}_x/up.sql", "migrations/2024-01-01-0000{:02}_x/down.sql"),
}


def history_table(tool: str) -> str:
    """Return the name of the table in which `tool` records applied migrations."""
    return _table(tool).table


def migrate_with(tool: str, project: Project) -> None:
    """Apply the first migrations as `tool` does, and add the pending one to the files."""
    for number in APPLIED:
        project.write(FILES[tool](number))
    if tool in _PROGRAMS:
        _PROGRAMS[tool](project)
    else:
        _by_ddl(tool, project)
    project.write(FILES[tool](NUMBERS[-1]))


def _by_ddl(tool: str, project: Project) -> None:
    table = _table(tool)
    rows = []
    for number in APPLIED:
        name, text = next(iter(FILES[tool](number).items()))
        path = Path(name)
        file = path.parent.name if tool == "Prisma" else path.name
        rows.append(table.row(number, file, text.encode()))
        project.database.execute(_FORWARD.format(number))
    values = ", ".join(f"({row})" for row in [*table.initial, *(rows[-1:] if table.one_row else rows)])
    project.database.execute(f"{table.ddl}; INSERT INTO {table.table} {table.columns} VALUES {values}")


def _table(tool: str) -> OldTool:
    return next(known for known in IMPORTABLE if known.name == tool.lower())


def _dbmate(project: Project) -> None:
    project.run(install.dbmate(), "--url", project.url(query="?sslmode=disable"), "--no-dump-schema", "up")


def _drizzle(project: Project) -> None:
    tags = sorted(path.stem for path in (project.directory / "drizzle").glob("*.sql"))
    entries = [{"idx": n, "version": "7", "when": n, "tag": tag, "breakpoints": True} for n, tag in enumerate(tags, 1)]
    journal = {"version": "7", "dialect": "postgresql", "entries": entries}
    program = """
        import { drizzle } from "drizzle-orm/node-postgres";
        import { migrate } from "drizzle-orm/node-postgres/migrator";
        const db = drizzle(process.argv[2]);
        await migrate(db, { migrationsFolder: "drizzle" });
        await db.$client.end();
    """
    project.write({"drizzle/meta/_journal.json": json.dumps(journal), "migrate.mjs": program})
    (project.directory / "node_modules").symlink_to(install.node_modules())
    project.run("node", "migrate.mjs", project.url())


def _node_pg_migrate(project: Project) -> None:
    program = install.node_modules() / ".bin/node-pg-migrate"
    project.run(program, "up", "--migrations-dir", "migrations", DATABASE_URL=project.url())


def _sql_migrate(project: Project) -> None:
    url = project.url(query="?sslmode=disable")
    config = f"production:\n  dialect: postgres\n  datasource: {url}\n  dir: migrations\n"
    project.write({"dbconfig.yml": config})
    project.run(install.sql_migrate(), "up", "-env=production")


def _yoyo(project: Project) -> None:
    program = install.alembic().with_name("yoyo")
    project.run(program, "apply", "--batch", "--no-config-file", "-d", project.url("postgresql"), "migrations")


_PROGRAMS: dict[str, Callable[[Project], None]] = {
    "dbmate": _dbmate,
    "Drizzle": _drizzle,
    "node-pg-migrate": _node_pg_migrate,
    "sql-migrate": _sql_migrate,
    "yoyo": _yoyo,
}
