"""What one writes in ten minutes: naive.py DIRECTORY applies its .sql files with psycopg, each in its transaction."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg


def main(directory: Path) -> None:
    """Apply what `_naive` does not name; an error ends the run."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS _naive (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
        applied = {name for (name,) in conn.execute("SELECT name FROM _naive")}
        for path in sorted(directory.glob("*.sql")):
            if path.name not in applied:
                with conn.transaction():
                    conn.execute(path.read_bytes())
                    conn.execute("INSERT INTO _naive (name) VALUES (%s)", [path.name])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
