"""Draw the output of a few commands on a pseudo-terminal as an SVG that is identical each time."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from scripts.pseudo_terminal import PseudoTerminal, Screen
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from scripts.pseudo_terminal import Cell

ROOT = Path(__file__).parents[1]
COLUMNS = 100
BEFORE = {
    "001_users.sql": "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL);\n",
    "002_orders.sql": "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint REFERENCES users);\n",
}
AFTER = {
    "003_orders_by_user.sql": (
        "DO $$BEGIN RAISE NOTICE 'indexing % orders', (SELECT count(*) FROM orders); END$$;\n"
        "CREATE INDEX orders_by_user ON orders (user_id);\n"
    ),
    "004_prices.sql": (
        "-- What an order costs.\n"
        "ALTER TABLE orders\n"
        "    ADD COLUMN price nummeric(10, 2) NOT NULL DEFAULT 0,\n"
        "    ADD COLUMN currency text;\n"
    ),
    "005_sessions.sql": "CREATE TABLE sessions (id uuid PRIMARY KEY, user_id bigint REFERENCES users);\n",
}
COMMANDS = ("status", "migrate", "check")

# Patterns for values that differ between runs, and their fixed replacements.
MASKED = {
    r"\d\d:\d\d:\d\dZ": "17:38:28Z",
    r"\b\d{4}-\d\d-\d\d\b": "2026-11-22",
    r"127\.0\.0\.1:\d+": "127.0.0.1:5432",
    r"\b\d+(\.\d+)? ms\b": "12 ms",
}


def main(target: Path) -> None:
    """Run the commands on a database with the first migrations applied, and draw their output."""
    picture = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    with PostgresServer() as server, tempfile.TemporaryDirectory() as directory:
        migrations = Path(directory)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": directory,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "DATABASE_URL": server.dsn(),
            "MIGRATIONS_DIR": directory,
        }
        for name, sql in BEFORE.items():
            (migrations / name).write_text(sql)
        shown(environment, "migrate")
        for name, sql in AFTER.items():
            (migrations / name).write_text(sql)
        for command in COMMANDS:
            picture.print(Text.assemble(("$ ", "green"), (f"pg-predeploy {command}", "bold")))
            picture.print(Text.from_ansi(shown(environment, command)))
    svg = picture.export_svg(title="pg-predeploy on a terminal", unique_id="terminal")
    target.write_text(re.sub(r" *@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))  # no fonts from other servers


def shown(environment: dict[str, str], command: str) -> str:
    """Run a command and return its final screen contents, with colours."""
    with PseudoTerminal(COLUMNS) as terminal:
        terminal.start([sys.executable, str(ROOT / "entrypoint.py"), command], environment)
        terminal.finish()
        output = terminal.output
    for pattern, instead in MASKED.items():
        output = re.sub(pattern, instead, output)
    return "\n".join(map(as_ansi, Screen(output, COLUMNS).lines))


def as_ansi(line: list[Cell]) -> str:
    """Return one line of a screen as text with colour codes."""
    runs = groupby(line, key=lambda cell: cell.styles)
    return "".join(f"\x1b[0;{';'.join(styles)}m{''.join(cell.sign for cell in run)}" for styles, run in runs).rstrip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
