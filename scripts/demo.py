"""Run the program twice, and show the tables after the first run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.support.postgres_server import PostgresServer, PostgresServerError

ROOT = Path(__file__).parents[1]

TABLES = """
SELECT relname, count(attnum)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
GROUP BY relname ORDER BY relname
"""


def main() -> int:
    """Run the demo on the database in DATABASE_URL, or on a new server."""
    database_url = os.environ.get("DATABASE_URL")
    if database_url:
        return demonstrate(database_url)
    with PostgresServer() as server:
        return demonstrate(server.dsn())


def demonstrate(database_url: str) -> int:
    """Run the program, print the tables, and run it again. Return the first nonzero exit code, or 0."""
    print_heading("First run: applies every migration in migrations/")
    status = migrate(database_url)
    if status == 0:
        print_heading("The tables after the first run")
        print_tables(database_url)
        print_heading("Second run: nothing is pending")
        status = migrate(database_url)
    print_heading("Done" if status == 0 else f"The run failed with exit code {status}")
    return status


def migrate(database_url: str) -> int:
    """Apply migrations/, logging JSON lines, and return the exit code."""
    settings = {"MIGRATIONS_DIR": str(ROOT / "migrations"), "MIGRATE_LOG_FORMAT": "json"}
    environment = {**os.environ, **settings, "DATABASE_URL": database_url}
    return subprocess.run([sys.executable, ROOT / "entrypoint.py"], env=environment, check=False).returncode


def print_tables(database_url: str) -> None:
    """Print each table with its number of columns, and the rows of _migrations."""
    with psycopg.connect(database_url) as conn:
        for table, columns in conn.execute(TABLES):
            print(f"  {table:<20}{columns:>3} columns")
        for name, applied_at in conn.execute("SELECT name, applied_at FROM _migrations ORDER BY name"):
            print(f"  {name} applied at {applied_at:%Y-%m-%d %H:%M:%S %Z}")


def print_heading(text: str) -> None:
    """Print a heading and flush it before the program writes to the same output."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PostgresServerError as error:
        sys.exit(f"scripts/demo: {error} Or set DATABASE_URL to use an existing database.")
    except KeyboardInterrupt:
        sys.exit(130)
