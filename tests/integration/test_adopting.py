"""The commands in docs/adopting.md, run unchanged in projects that another tool has migrated until now.

test_baseline.py tests how each tool's history is interpreted.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from benchmarks import install
from tests.support.database import fresh_database
from tests.support.histories import DETECT_ONLY
from tests.support.old_tools import FILES, Project, history_table, migrate_with
from tests.support.postgres_server import find_binaries
from tests.support.program import ENTRYPOINT, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer

PAGE = (ROOT / "docs/adopting.md").read_text()
COMMANDS = {
    heading: block
    for heading, text in re.findall(r"^#{2,3} ([^\n]+)\n(.*?)(?=^#{2,3} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
}
SETTINGS = {
    heading: dict(re.findall(r"\b(MIGRAT\w+)=(\S+)", commands.partition("\n")[0]))
    for heading, commands in COMMANDS.items()
}
BY_HAND = """
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE);
    CREATE FUNCTION shout(word text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN upper(word); END';
    INSERT INTO users (email) VALUES ('a@example.org')
"""
COLUMNS = """
    SELECT table_name, column_name, data_type, column_default, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> '_migrations' ORDER BY 1, 2
"""


ALEMBIC_ENV = """
import os
from alembic import context
from sqlalchemy import create_engine

url = os.environ["SQLALCHEMY_URL"]
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
ALEMBIC_REVISION = """
from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = {!r}, {!r}

def upgrade():
    op.create_table({!r}, Column("name", Text, nullable=False))
"""
DJANGO_SETTINGS = """
import os
from urllib.parse import unquote, urlsplit

url = urlsplit(os.environ["DJANGO_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
        "PASSWORD": unquote(url.password), "HOST": url.hostname, "PORT": url.port,
    }
}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
DJANGO_MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = {!r}
    operations = [migrations.CreateModel({!r}, [("id", models.BigAutoField(primary_key=True))])]
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"""


class Shell:
    """A shell in the project's directory that finds `pg-predeploy`, Postgres's clients and the programs added to it."""

    def __init__(self, project: Project, programs: Path) -> None:
        self._project = project
        self._programs = programs
        programs.mkdir()
        self.add("pg-predeploy", f'"{sys.executable}" "{ENTRYPOINT}"')

    def add(self, name: str, command: str) -> None:
        (self._programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (self._programs / name).chmod(0o755)

    def __call__(self, script: str, **environment: str) -> str:
        """Run a script that must exit with 0, and return its output."""
        path = os.pathsep.join([str(self._programs), str(find_binaries()), os.environ["PATH"]])
        defaults = {"PATH": path, "DATABASE_URL": self._project.database.dsn}
        return self._project.run("sh", "-euc", script, **{**defaults, **environment})


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project", database)


@pytest.fixture
def shell(project: Project, tmp_path: Path) -> Shell:
    return Shell(project, tmp_path / "programs")


@pytest.fixture
def empty_database(server: PostgresServer) -> Iterator[Database]:
    with fresh_database(server) as fresh:
        yield fresh


@contextmanager
def registries() -> Iterator[None]:
    """Skip the test if a tool cannot be installed, except in CI."""
    try:
        yield
    except (install.Failed, FileNotFoundError) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def test_every_paragraph_is_tested() -> None:
    others = ["Alembic", "Django", "Rails", "Sqitch", "docker-entrypoint-initdb.d", "A schema made by hand"]
    assert list(COMMANDS) == ["What it cannot prove", *FILES, *others]


@pytest.mark.parametrize("tool", FILES)
def test_only_migrations_that_are_pending_in_the_old_tool_run(
    tool: str, project: Project, shell: Shell, empty_database: Database
) -> None:
    with registries():
        migrate_with(tool, project)
    history = rows_of(project.database, history_table(tool))
    shell(COMMANDS[tool])
    assert project.seen() == ["1", "2"]
    recorded = checksums(project.database)
    assert len(recorded) == 2
    shell("pg-predeploy migrate; pg-predeploy migrate; pg-predeploy check", **SETTINGS[tool])
    assert project.seen() == ["1", "2", "10"]
    assert rows_of(project.database, history_table(tool)) == history
    shell("pg-predeploy migrate", DATABASE_URL=empty_database.dsn, **SETTINGS[tool])
    assert Project(project.directory, empty_database).seen() == ["1", "2", "10"]
    assert recorded.items() <= checksums(empty_database).items()


def test_alembic(project: Project, shell: Shell, empty_database: Database) -> None:
    with registries():
        shell.add("alembic", f'"{install.alembic()}"')
    url = {"SQLALCHEMY_URL": project.url("postgresql+psycopg2")}
    ini = "[alembic]\nscript_location = %(here)s/alembic\n"
    project.write({"alembic.ini": ini, "alembic/env.py": ALEMBIC_ENV})
    project.write({"alembic/versions/one.py": ALEMBIC_REVISION.format("one", None, "first")})
    project.write({"alembic/versions/two.py": ALEMBIC_REVISION.format("two", "one", "second")})
    shell("alembic upgrade head; alembic current", **url)
    project.database.execute("INSERT INTO first VALUES ('kept')")
    shell(COMMANDS["Alembic"], **url)
    project.write({"alembic/versions/three.py": ALEMBIC_REVISION.format("three", "two", "third")})
    shell("alembic upgrade two:three --sql >sql/0002_third.sql; pg-predeploy migrate", **SETTINGS["Alembic"], **url)
    assert project.database.query("SELECT * FROM first") == [("kept",)]
    assert rows_of(project.database, "alembic_version") == [("three",)]
    assert_same_from_scratch(shell, project.database, empty_database, "Alembic")


def test_django(project: Project, shell: Shell, empty_database: Database) -> None:
    with registries():
        shell.add("python", f'"{install.alembic().with_name("python")}"')
    settings = {"DJANGO_URL": project.url("postgresql"), "DJANGO_SETTINGS_MODULE": "settings"}
    project.write({"manage.py": MANAGE, "settings.py": DJANGO_SETTINGS, "shop/__init__.py": ""})
    project.write({"shop/migrations/__init__.py": ""})
    project.write({"shop/migrations/0001_item.py": DJANGO_MIGRATION.format([], "Item")})
    project.write({"shop/migrations/0002_order.py": DJANGO_MIGRATION.format([("shop", "0001_item")], "Order")})
    shell("python manage.py migrate", **settings)
    project.database.execute("INSERT INTO shop_item VALUES (7)")
    shell(COMMANDS["Django"], **settings)
    assert project.names("sql") == ["0001_shop_0001_item.sql", "0002_shop_0002_order.sql"]
    assert rows_of(project.database, "shop_item") == [(7,)]
    project.database.execute("DROP TABLE django_migrations")
    assert_same_from_scratch(shell, project.database, empty_database, "Django")


def test_rails(project: Project, shell: Shell, empty_database: Database) -> None:
    project.database.execute(DETECT_ONLY["rails"][1])
    project.database.execute(BY_HAND)
    shell(COMMANDS["Rails"])
    project.database.execute("DROP TABLE schema_migrations, ar_internal_metadata")
    assert_same_from_scratch(shell, project.database, empty_database, "Rails")


def test_sqitch(project: Project, shell: Shell, empty_database: Database) -> None:
    plan = "%syntax-version=1.0.0\n%project=app\n\nusers 2024-01-01T00:00:00Z a <a@a> # Users\n"
    plan += "@v1 2024-01-01T00:00:00Z a <a@a>\norders [users] 2024-01-02T00:00:00Z a <a@a> # Orders\n"
    deploy = {"users": "CREATE TABLE users (id int);", "orders": "CREATE TABLE orders (id int);"}
    project.write({"sqitch.plan": plan})
    for change, statement in deploy.items():
        project.database.execute(statement)
        project.write({f"deploy/{change}.sql": f"-- Deploy {change}\n\nBEGIN;\n\n{statement}\n\nCOMMIT;\n"})
        project.write({f"revert/{change}.sql": f"BEGIN;\nDROP TABLE {change};\nCOMMIT;\n"})
    project.database.execute(DETECT_ONLY["sqitch"][1])
    shell(COMMANDS["Sqitch"])
    assert project.names("sql") == ["0001_users.sql", "0002_orders.sql"]
    assert_same_from_scratch(shell, project.database, empty_database, "Sqitch")


def test_files_of_the_postgres_image(project: Project, shell: Shell, empty_database: Database) -> None:
    folder = "docker-entrypoint-initdb.d"
    project.write({f"{folder}/01_users.sql": BY_HAND, f"{folder}/02_seed.sh": "exit 1\n"})
    project.database.execute(BY_HAND)
    shell(COMMANDS[folder])
    assert project.database.query("SELECT count(*) FROM users") == [(1,)]
    assert_same_from_scratch(shell, project.database, empty_database, folder)


def test_a_schema_made_by_hand(project: Project, shell: Shell, empty_database: Database) -> None:
    heading = "A schema made by hand"
    project.database.execute(BY_HAND)
    shell(COMMANDS[heading])
    project.write({"migrations/0002_name.sql": "ALTER TABLE users ADD name text; UPDATE users SET name = shout('a')"})
    shell("pg-predeploy migrate", **SETTINGS[heading])
    assert project.database.query("SELECT email, name FROM users") == [("a@example.org", "A")]
    assert_same_from_scratch(shell, project.database, empty_database, heading)


def test_a_rebuilt_database_is_compared(project: Project, shell: Shell, server: PostgresServer) -> None:
    owner = project.database.owner
    project.database.admin_execute(f"ALTER ROLE {owner} CREATEDB")
    project.database.execute(BY_HAND)
    project.write({"migrations/0001_users.sql": BY_HAND})
    rebuilt = {"REBUILT_URL": server.dsn("rebuilt", owner, project.database.password), "MIGRATIONS_DIR": "migrations"}
    try:
        shell(f"pg-predeploy baseline --all\n{COMMANDS['What it cannot prove']}", **rebuilt)
        project.database.execute("ALTER TABLE users ADD by_hand int")
        with pytest.raises(AssertionError, match="by_hand"):
            shell(COMMANDS["What it cannot prove"].partition("\n")[2], **rebuilt)
    finally:
        project.database.admin_execute("DROP DATABASE IF EXISTS rebuilt")


def checksums(database: Database) -> dict[str, str]:
    return dict(database.query("SELECT name, checksum FROM _migrations"))


def rows_of(database: Database, table: str) -> list[tuple[object, ...]]:
    return database.query(f"SELECT * FROM {table} ORDER BY 1")


def assert_same_from_scratch(shell: Shell, adopted: Database, empty: Database, heading: str) -> None:
    """Assert that no migration is pending in `adopted`, and that the files create the same tables in `empty`."""
    shell("pg-predeploy migrate; pg-predeploy check", **SETTINGS[heading])
    shell("pg-predeploy migrate", DATABASE_URL=empty.dsn, **SETTINGS[heading])
    assert empty.query(COLUMNS) == adopted.query(COLUMNS)
