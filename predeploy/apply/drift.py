"""Compare the files with `_migrations`: find the pending migrations, and report the differences."""

from __future__ import annotations

import logging
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from predeploy.migrations.migration import MigrationError
from predeploy.migrations.order import have_fixed_width, is_versioned, numeric_key, order_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult

log = logging.getLogger(__name__)

_EVENTS = {
    "changed": "migration.changed",
    "missing": "migration.missing",
    "late": "migration.late",
    "misordered": "migration.misordered",
    "renamed": "migration.renamed",
    "ignored": "migration.ignored",
}
_MAX_WARNINGS = 20
_VERSION = re.compile(r"(?:V?[0-9]+(?:[._][0-9]+)*)?[-_. ]*")


class Finding(NamedTuple):
    """One difference: its kind (one of STRICT_KINDS), the name of the file, and the message to log."""

    kind: str
    name: str
    message: str


class Drift(NamedTuple):
    """The result of comparing the files with the recorded names and checksums.

    `pending` are the migrations to run, in order, repeatable ones last. `renamed` maps a new name to the recorded one.
    `copies` maps a pending migration to the recorded migration with the same content, whose file is missing.
    """

    pending: list[Migration]
    renamed: dict[str, str]
    copies: dict[str, str]
    findings: list[Finding]

    @property
    def needs_writes(self) -> bool:
        """Whether a run has something to apply or to record."""
        return bool(self.pending or self.renamed)


def find_drift(files: MigrationFiles, recorded: Mapping[str, str | None]) -> Drift:
    """Compare the files with the names and checksums in `_migrations`."""
    ignored = [Finding("ignored", name, f"{name} is not read as a migration") for name in files.not_read()]
    if {file.name: file.checksum for file in files.migrations} == recorded:
        return Drift([], {}, {}, ignored)  # the usual case; comparing 10,000 files takes 1 ms
    pending = [migration for migration in files.migrations if not is_applied(migration, recorded)]
    missing = _find_missing(files, recorded)
    renamed, copies = _find_renamed([m for m in pending if m.name not in recorded], missing, recorded)
    missing = [name for name in missing if name not in renamed.values()]
    pending = [migration for migration in pending if migration.name not in renamed]
    pending.sort(key=lambda migration: migration.repeatable)
    changed = [m.name for m in files.migrations if has_changed(m, recorded.get(m.name)) and not m.repeatable]
    another = "; if _migrations belongs to another application, set MIGRATE_TABLE" if missing else ""
    findings = [
        *(
            Finding("renamed", new, f"{old} was renamed to {new}: the applied content is the same")
            for new, old in renamed.items()
        ),
        *_find_misordered(files, pending),
        *_find_late(files, pending, recorded),
        *(
            Finding(
                "changed",
                name,
                f"Checksum mismatch: {name} changed after it was applied; put the change into a new migration{another}",
            )
            for name in changed
        ),
        *(
            Finding("missing", name, f"{name} is recorded as applied but missing from the directory")
            for name in missing
        ),
        *ignored,
    ]
    return Drift(pending, renamed, copies, findings)


def is_applied(migration: Migration, recorded: Mapping[str, str | None]) -> bool:
    """Return whether a migration is recorded; a repeatable one must be recorded with its current checksum."""
    if migration.name not in recorded:
        return False
    return recorded[migration.name] == migration.checksum or not migration.repeatable


def has_changed(migration: Migration, applied: str | None) -> bool:
    """Return whether the file has changed since it was applied; if a checksum is missing, return False."""
    return bool(applied and migration.checksum and applied != migration.checksum)


def warn(findings: Iterable[Finding], kinds: Collection[str]) -> None:
    """Log the findings of some kinds as warnings, at most 20 of each kind."""
    counts: dict[str, int] = {}
    for kind, name, message in findings:
        counts[kind] = counts.get(kind, 0) + (kind in kinds)
        if kind in kinds and counts[kind] <= _MAX_WARNINGS:
            log.warning("%s", message, extra={"event": _EVENTS[kind], "migration": name})
    for kind, count in counts.items():
        if (rest := count - _MAX_WARNINGS) > 0:
            log.warning("and %s more", rest, extra={"event": _EVENTS[kind], "more": rest})


def refuse(findings: Iterable[Finding], strict: Collection[str], result: MigrationResult) -> bool:
    """Record and log an error for each finding of a `strict` kind, and return whether there were any."""
    errors = [finding for finding in findings if finding.kind in strict]
    for kind, name, message in errors:
        result.errors.append(MigrationError(name, message))
        log.error("%s", message, extra={"event": _EVENTS[kind], "migration": name, "error": message})
    return bool(errors)


def refuse_copies(drift: Drift) -> None:
    """Set the `problem` of each pending migration that has the same content as an applied one whose file is missing."""
    for migration in drift.pending:
        if old := drift.copies.get(migration.name):
            migration.problem = (
                f"has the same content as {old}, which is applied but missing from the directory. "
                "If the file was renamed, restore its name; to apply it again, change it (a comment is enough)"
            )


def _find_missing(files: MigrationFiles, recorded: Mapping[str, str | None]) -> list[str]:
    """Return the recorded names without a file, except the old names of renamed files."""
    missing = recorded.keys() - files.names()
    if not missing:
        return []
    copies = Counter(file.checksum for file in files.migrations)
    kept = {
        (file.checksum, _without_version(file.name))
        for file in files.migrations
        if file.name in recorded and copies[file.checksum] == 1
    }
    return sorted(name for name in missing if (recorded[name], _without_version(name)) not in kept)


def _find_renamed(
    new: Sequence[Migration], missing: Sequence[str], recorded: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the renamed files, and the other files with the content of a missing file. Both map to the old name.

    A file counts as renamed if no other file and no other missing name has its checksum, and if its name has changed
    only in the version.
    """
    old_names: dict[str | None, list[str]] = {}
    for name in missing:
        old_names.setdefault(recorded[name], []).append(name)
    new_files: dict[str, list[Migration]] = {}
    for migration in new:
        has_content = migration.is_large or migration.sql.strip()
        if has_content and migration.checksum and migration.checksum in old_names:
            new_files.setdefault(migration.checksum, []).append(migration)
    renamed: dict[str, str] = {}
    copies: dict[str, str] = {}
    for checksum, migrations in new_files.items():
        names = old_names[checksum]
        is_one = len(names) == len(migrations) == 1
        for migration in migrations:
            is_renamed = is_one and _without_version(migration.name) == _without_version(names[0])
            (renamed if is_renamed else copies)[migration.name] = names[0]
    return renamed, copies


def _without_version(name: str) -> str:
    return _VERSION.sub("", name, count=1)


def _find_misordered(files: MigrationFiles, pending: Collection[Migration]) -> list[Finding]:
    """Return the first two adjacent names that are not in numeric order (`10_` before `2_`), if one is pending."""
    if files.numeric or not pending:
        return []
    names = [migration.name for migration in files.migrations]
    if have_fixed_width(names):
        return []
    to_run = {migration.name for migration in pending}
    versioned = next((name for name in names if is_versioned(name)), None)
    repeatable = next((name for name in names if name in to_run and name.startswith("R__")), None)
    if repeatable and versioned:
        message = f"{repeatable} runs before {versioned}; to run R__ files last, set MIGRATE_ORDER=numeric"
        return [Finding("misordered", repeatable, message)]
    key = numeric_key(names)
    numbered = [(found[1], name) for name in names if not (found := key(name))[0]]
    for (before, first), (after, second) in pairwise(numbered):
        if before > after and not to_run.isdisjoint({first, second}):
            pad = "pad the numbers with zeros, or " if to_run.issuperset({first, second}) else ""
            why = f"because names are sorted by character; {pad}set MIGRATE_ORDER=numeric"
            return [Finding("misordered", first, f"{first} runs before {second} {why}")]
    return []


def _find_late(files: MigrationFiles, pending: Iterable[Migration], recorded: Iterable[str]) -> Iterator[Finding]:
    """Yield the pending migrations that sort before an applied one; repeatable migrations are left out."""
    names = [migration.name for migration in pending if not migration.repeatable]
    if not names:
        return
    key = order_key([*recorded, *names], numeric=files.numeric)
    by_name = {migration.name: migration for migration in files.migrations}
    last_first = sorted(recorded, key=key, reverse=True)
    last = next((name for name in last_first if name not in by_name or not by_name[name].repeatable), None)
    for name in names:
        if last is not None and key(name) < key(last):
            yield Finding("late", name, f"Out of order: {name} sorts before an applied migration")
