"""Warn about differences between the files and `_migrations`, without affecting the run."""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from predeploy.migrations.migration import Migration, MigrationFiles

log = logging.getLogger(__name__)

_MAX_WARNINGS = 20


def has_changed(migration: Migration, applied: str | None) -> bool:
    """Return whether the file has changed since it was applied; if a checksum is missing, return False."""
    return bool(applied and migration.checksum and applied != migration.checksum)


def warn_of_drift(files: MigrationFiles, checksums: Mapping[str, str | None]) -> None:
    """Warn about files that changed after they were applied, and about applied migrations without a file."""
    on_disk = {file.name: file.checksum for file in files.migrations}
    if on_disk == checksums:
        return  # the usual case; comparing 10,000 files takes 1 ms
    changed = [file.name for file in files.migrations if has_changed(file, checksums.get(file.name))]
    _warn(
        "migration.changed",
        changed,
        "Checksum mismatch: %s changed after it was applied; put the change into a new migration",
    )
    _warn(
        "migration.missing",
        sorted(checksums.keys() - on_disk),
        "%s is recorded as applied but missing from the directory",
    )


def warn_of_order(files: MigrationFiles, pending: Iterable[str], rows: Iterable[str]) -> None:
    """Warn if the migrations run in an order that their author may not expect."""
    if pair := _misordered([migration.name for migration in files.migrations]):
        log.warning(
            "%s runs before %s because names are sorted by character; pad the numbers with zeros",
            *pair,
            extra={"event": "migration.misordered", "migration": pair[0]},
        )
    last = max(rows, default="")
    _warn(
        "migration.late",
        [name for name in pending if name < last],
        "Out of order: %s sorts before an applied migration",
    )


def _misordered(names: list[str]) -> tuple[str, str] | None:
    """Return the first two adjacent names that are not in numeric order (`10_` before `2_`), or None."""
    numbered = [(int(match[0][:18]), name) for name in names if (match := re.match(r"[0-9]+", name))]
    for (before, first), (after, second) in pairwise(numbered):
        if before > after:
            return first, second
    return None


def _warn(event: str, names: list[str], text: str) -> None:
    for name in names[:_MAX_WARNINGS]:
        log.warning(text, name, extra={"event": event, "migration": name})
    if (rest := len(names) - _MAX_WARNINGS) > 0:
        log.warning("and %s more", rest, extra={"event": event, "more": rest})
