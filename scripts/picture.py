"""What `scripts/picture` draws: a few commands on a pseudo terminal, as an SVG that is the same each time."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.pseudo_terminal import PseudoTerminal, Screen
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.pseudo_terminal import Cell

ROOT = Path(__file__).parents[1]
COLUMNS = 92
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

# What differs from run to run, and what stands there instead, as wide.
MASKED = {
    r"\d\d:\d\d:\d\d\b": "17:38:28",
    r"\b\d{4}-\d\d-\d\d\b": "2026-11-22",
    r"127\.0\.0\.1:\d+": "127.0.0.1:5432",
}
DURATION = re.compile(r" {0,8}\b\d+(?:\.\d+)? m?s\b")

CELL_PX, LINE_PX, MARGIN_PX, BAR_PX = 8.4, 19, 16, 34
INK = {
    "": "#d7dae0",
    "1": "#f4f6fa",
    "2": "#7f8897",
    "31": "#f07178",
    "32": "#9ece6a",
    "33": "#e6b450",
    "36": "#59c2ff",
}
FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img">
<title>{title}</title>
<style>text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre }}</style>
<rect width="100%" height="100%" rx="8" fill="#161a21"/>
<circle cx="20" cy="18" r="5.5" fill="#f07178"/><circle cx="38" cy="18" r="5.5" fill="#e6b450"/><circle cx="56" cy="18" r="5.5" fill="#9ece6a"/>
{text}
</svg>
"""  # noqa: E501


def main(target: Path) -> None:
    """Run the commands on a database that has the first migrations, and draw what they show."""
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
        lines: list[list[Cell]] = []
        for command in COMMANDS:
            lines += [*prompt(f"pg-predeploy {command}"), *shown(environment, command)]
    target.parent.mkdir(exist_ok=True)
    target.write_text(draw(lines))


def shown(environment: dict[str, str], command: str) -> list[list[Cell]]:
    """Return what stands on the screen when the command has ended."""
    with PseudoTerminal(COLUMNS) as terminal:
        terminal.start([sys.executable, str(ROOT / "entrypoint.py"), command], environment)
        terminal.finish()
        return Screen(masked(terminal.output), COLUMNS).lines


def masked(output: str) -> str:
    """Replace what is never the same twice."""
    for pattern, instead in MASKED.items():
        output = re.sub(pattern, instead, output)
    return DURATION.sub(lambda match: "12 ms".rjust(len(match[0])) if match[0].startswith("  ") else " 0.2 s", output)


def prompt(command: str) -> list[list[Cell]]:
    """Return the line of a shell."""
    return Screen(f"\x1b[32m$\x1b[0m \x1b[1m{command}\x1b[0m", COLUMNS).lines


def draw(lines: list[list[Cell]]) -> str:
    """Return the SVG; each run of one style is as wide as its cells, whatever the font."""
    while lines and not lines[-1]:
        lines.pop()
    text = "\n".join(run for number, line in enumerate(lines) for run in runs(number, line))
    width, height = COLUMNS * CELL_PX + 2 * MARGIN_PX, len(lines) * LINE_PX + BAR_PX + MARGIN_PX
    return FRAME.format(width=width, height=height, text=text, title="pg-predeploy on a terminal")


def runs(number: int, line: list[Cell]) -> Iterable[str]:
    """Yield one line's runs of one style, words that stand far from each other apart."""
    y = BAR_PX + (number + 0.8) * LINE_PX
    for styles, group in groupby(enumerate(line), key=lambda numbered: numbered[1].styles):
        cells = list(group)
        text = "".join(cell.sign for _, cell in cells)
        for word in re.finditer(r"\S+(?: \S+)*", text):
            x = MARGIN_PX + (cells[0][0] + word.start()) * CELL_PX
            ink = INK[next((style for style in styles if style != "1"), styles[0] if styles else "")]
            weight = ' font-weight="bold"' if "1" in styles else ""
            length = len(word[0]) * CELL_PX
            yield (
                f'<text x="{x:.1f}" y="{y:.1f}" textLength="{length:.1f}" fill="{ink}"{weight}>{escape(word[0])}</text>'
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
