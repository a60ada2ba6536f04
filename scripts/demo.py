"""What `scripts/demo` shows, on the database that DATABASE_URL names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

ROOT = Path(__file__).parents[1]

TABLES = """
SELECT relname, count(attnum)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
GROUP BY relname ORDER BY relname
"""


def main() -> int:
    """Run the program twice with a look at the database in between; return the first bad exit status."""
    show("First run: every migration in migrations/ is applied")
    status = migrate()
    if status == 0:
        show("What the database holds now")
        print_tables()
        show("Second run: there is nothing left to do")
        status = migrate()
    show("Done" if status == 0 else f"The run failed with exit code {status}")
    return status


def migrate() -> int:
    """Run the program on the project's own migrations, logging JSON."""
    environment = {**os.environ, "MIGRATIONS_DIR": str(ROOT / "migrations"), "MIGRATE_LOG_FORMAT": "json"}
    return subprocess.run([sys.executable, ROOT / "entrypoint.py"], env=environment, check=False).returncode


def print_tables() -> None:
    """Print the tables with their numbers of columns, and which migrations made them."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
        for table, columns in conn.execute(TABLES):
            print(f"  {table:<20}{columns:>3} columns")
        for name, applied_at in conn.execute("SELECT name, applied_at FROM _migrations ORDER BY name"):
            print(f"  {name} applied at {applied_at:%Y-%m-%d %H:%M:%S %Z}")


def show(heading: str) -> None:
    """Print a heading, at once: the program writes to the same terminal."""
    print(f"\n== {heading}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
