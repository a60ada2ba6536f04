"""Decide by name which files in a directory are migrations, and why each of the remaining files never runs.

Other tools keep a rollback next to each migration, or keep each migration in a folder of its own. A rollback that runs
as a migration destroys data, so rollback names are exceptions to the rule that every `.sql` file is a migration.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from predeploy.migrations.order import flyway_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROLLBACK = re.compile(r"(.+)\.(?:down|rollback|undo)\.sql", re.IGNORECASE | re.DOTALL)
_LEADING_DIGITS = re.compile(r"[0-9]+")
_FLYWAY = re.compile(r"([VUB])([0-9]+(?:[._][0-9]+)*)__.*\.sql", re.DOTALL)
# https://documentation.red-gate.com/flyway: callback events, optionally with a description
_FLYWAY_CALLBACK = re.compile(
    r"(?:before|after)(?:Each)?(?:Migrate|Versioned|Repeatables|Undo|Clean|Info|Validate|Baseline|Repair|Connect|"
    r"CreateSchema|Deploy)(?:Statement)?(?:Applied|Error)?(?:__.*)?\.sql|createSchema(?:__.*)?\.sql",
    re.DOTALL,
)
_NEARLY_SQL = re.compile(r".*\.(?:sql|pgsql|psql|sql\.(?:txt|gz|bz2|xz|zst))\s*", re.IGNORECASE | re.DOTALL)
_MAX_FOLDERS = 1000  # searched for files that are not read

ROLLBACK = "rollback"
CALLBACK = "callback"
NOT_READ = "not read"
_NO_FORWARD = (
    "this is a rollback file, but the migration that it belongs to is missing. Restore the migration, "
    "or if this file is itself a migration, rename it"
)
_NO_VERSIONED = (
    "this is a Flyway baseline migration, but no V file has its version or a lower one. "
    "Rename this file to run it as a migration"
)


class IgnoredFile(NamedTuple):
    """A file that never runs: a ROLLBACK, a Flyway CALLBACK, or NOT_READ because of its name or folder."""

    name: str
    kind: str


class Layout(NamedTuple):
    """The migrations' paths relative to the directory, the ignored files, and the files that must not run.

    `problems` maps each file that must not run to the reason.
    """

    migrations: list[str]
    ignored: list[IgnoredFile]
    problems: dict[str, str]


def read_layout(directory: str) -> Layout:
    """Find the migrations in a directory. Dot files and dot folders are left out. Raise OSError if listing fails.

    If the directory itself contains no `.sql` file, each folder with a `migration.sql` (Prisma, Drizzle) or an `up.sql`
    (Diesel) is one migration, even if the name of the folder ends in `.sql`.
    """
    entries = _list(directory)
    names = [name for name in entries if name.endswith(".sql")]
    others = [name for name in entries if not name.endswith(".sql")]
    ignored = [IgnoredFile(name, NOT_READ) for name in others if _NEARLY_SQL.fullmatch(name)]
    folders = [name for name in others if os.path.isdir(f"{directory}/{name}")]
    if all(_is_migration_folder(f"{directory}/{name}") for name in names):
        layout = _read_folders(directory, sorted([*folders, *names]))
        return Layout(layout.migrations, [*ignored, *layout.ignored], layout.problems)
    migrations, rollbacks, problems = _without_rollbacks(names)
    unread = (IgnoredFile(name, NOT_READ) for name in _sql_below(directory, folders))
    return Layout(migrations, [*rollbacks, *ignored, *unread], problems)


def _list(directory: str) -> list[str]:
    return [name for name in sorted(os.listdir(directory)) if not name.startswith(".")]


def _without_rollbacks(names: list[str]) -> tuple[list[str], list[IgnoredFile], dict[str, str]]:
    """Split names into migrations, files to ignore, and rollbacks without their migration."""
    known = {*names}
    flyway = [match for name in names if (match := _FLYWAY.fullmatch(name))]
    versions = [flyway_version(match[2]) for match in flyway if match[1] == "V"]
    numbers_up = {_number(name) for name in names if name.lower().endswith(".up.sql")} - {""}
    migrations: list[str] = []
    ignored: list[IgnoredFile] = []
    problems: dict[str, str] = {}
    for name in names:
        if _FLYWAY_CALLBACK.fullmatch(name):
            ignored.append(IgnoredFile(name, CALLBACK))
            continue
        if rollback := _ROLLBACK.fullmatch(name):
            stem = rollback[1]
            has_forward = not known.isdisjoint({f"{stem}.sql", f"{stem}.up.sql"}) or _number(name) in numbers_up
            problem = _NO_FORWARD
        elif (match := _FLYWAY.fullmatch(name)) and match[1] != "V":
            version = flyway_version(match[2])
            has_forward = version in versions if match[1] == "U" else any(v <= version for v in versions)
            problem = _NO_FORWARD if match[1] == "U" else _NO_VERSIONED
        else:
            migrations.append(name)
            continue
        if has_forward:
            ignored.append(IgnoredFile(name, ROLLBACK))
        else:
            migrations.append(name)
            problems[name] = problem
    return migrations, ignored, problems


def _number(name: str) -> str:
    """Return the leading digits, by which golang-migrate pairs its files."""
    match = _LEADING_DIGITS.match(name)
    return match[0].lstrip("0") or "0" if match else ""


def _read_folders(directory: str, folders: Iterable[str]) -> Layout:
    layout = Layout([], [], {})
    for folder in folders:
        try:
            names = {*_list(f"{directory}/{folder}")}
        except OSError as error:
            layout.migrations.append(f"{folder}/migration.sql")
            layout.problems[f"{folder}/migration.sql"] = f"the folder cannot be read: {error.strerror}"
            continue
        migration = next((name for name in ("migration.sql", "up.sql") if name in names), None)
        if migration:
            layout.migrations.append(f"{folder}/{migration}")
        if "down.sql" in names:
            path = f"{folder}/down.sql"
            if migration:
                layout.ignored.append(IgnoredFile(path, ROLLBACK))
            else:
                layout.migrations.append(path)
                layout.problems[path] = _NO_FORWARD
        read = {f"{folder}/{migration}", f"{folder}/down.sql"}
        unread = (path for path in _sql_below(directory, [folder]) if path not in read)
        layout.ignored.extend(IgnoredFile(path, NOT_READ) for path in unread)
    return layout


def _is_migration_folder(path: str) -> bool:
    return os.path.exists(f"{path}/migration.sql") or os.path.exists(f"{path}/up.sql")


def _sql_below(directory: str, folders: Iterable[str]) -> Iterator[str]:
    """Yield the paths of all `.sql` files in the folders and below, without dot folders."""
    for folder in folders:
        for path, below, names in islice(os.walk(f"{directory}/{folder}"), _MAX_FOLDERS):
            below[:] = sorted(name for name in below if not name.startswith("."))
            relative = path.removeprefix(f"{directory}/")
            yield from (
                f"{relative}/{name}" for name in sorted(names) if name.endswith(".sql") and not name.startswith(".")
            )
