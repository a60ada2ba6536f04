"""Compare another tool's history with the migration files: find the applied files and how each one was matched."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from predeploy.errors import ConfigurationError
from predeploy.migrations.large_file import BOM

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from predeploy.adopt.histories import History
    from predeploy.migrations.migration import Migration

    Rows = Sequence[tuple[Any, ...]]

_MAX_NAMES = 5
_FLYWAY_VERSION = re.compile(r"V(\d+(?:[._]\d+)*)__", re.ASCII)


class Comparison(NamedTuple):
    """The result of a comparison.

    `applied` maps each file that the tool has applied to how it was matched: by "checksum" or by "version". `strays`
    lists the rows without a file, under the tool's own names for them.
    """

    applied: Mapping[str, str]
    strays: tuple[str, ...] = ()


class _Entries(NamedTuple):
    """The keys of the migrations that a tool has applied, each with its checksum or None.

    `of_file` returns the keys that match a file name.
    """

    checksums: Mapping[str, str | None]
    of_file: Callable[[str], Iterable[str]]


def compare(history: History, rows: Rows, files: Sequence[Migration], directory: str) -> Comparison:
    """Find the files that a tool has applied.

    Raise `ConfigurationError` if the tool reports a failed or unfinished migration, if a file differs from the
    one that the tool applied, or if a row matches several files.
    """
    if history.tool.title == "Drizzle":
        return _compare_drizzle(history, rows, files, directory)
    entries = _READERS[history.tool.title](history, rows, files)
    by_key: dict[str, list[Migration]] = {}
    for migration in files:
        for key in entries.of_file(migration.name):
            by_key.setdefault(key, []).append(migration)
    applied, differing, strays = {}, [], []
    for key, checksum in entries.checksums.items():
        found = by_key.get(key, [])
        if len(found) > 1:
            raise ConfigurationError(
                f"{_named([migration.name for migration in found])} have the same version, and {history.table} records "
                f"only versions. Rename one of them, or {_OVERRULE}"
            )
        if not found:
            strays.append(key)
        elif not checksum:
            applied[found[0].name] = "version"
        elif checksum in hashes(found[0], directory, len(checksum)):
            applied[found[0].name] = "checksum"
        else:
            differing.append(found[0].name)
    _refuse_differing(history, differing)
    return Comparison(applied, tuple(strays))


def refuse_gap(history: History, applied: Collection[str], decided: Collection[str], names: Sequence[str]) -> None:
    """Raise `ConfigurationError` if a file that is still pending in the tool sorts before a file that it has applied.

    `names` are all files in run order; `decided` are the files that `_migrations` already records.
    """
    last = max((number for number, name in enumerate(names) if name in applied), default=-1)
    missing = [
        name for name in names[:last] if name not in applied and name not in decided and not _is_repeatable(name)
    ]
    if not missing:
        return
    by_number = min(map(_version_in, missing)) > max(map(_version_in, applied))
    raise ConfigurationError(
        f"{_named(missing)} {'is' if len(missing) == 1 else 'are'} still pending in {history.tool.title}, but "
        f"{'sorts' if len(missing) == 1 else 'sort'} before {names[last]}, which {history.tool.title} has applied. "
        + (
            "Set MIGRATE_ORDER=numeric, which sorts names by number."
            if by_number
            else f"Apply the pending migrations with {history.tool.title} first. If their changes are already in the "
            f"database, run pg-predeploy baseline --through {names[last]}."
        )
    )


def hashes(migration: Migration, directory: str, digits: int) -> set[str]:
    """Return the checksums that a tool may have stored: SHA-256 (64 hex digits) or SHA-384, with LF or CRLF.

    Raise `ConfigurationError` if the file cannot be read.
    """
    from hashlib import sha256, sha384  # only needed by baseline

    content = _read(migration, directory)
    with_lf = content.replace(b"\r\n", b"\n")
    texts = {content, with_lf, with_lf.replace(b"\n", b"\r\n")}
    texts |= {BOM + text.removeprefix(BOM) for text in texts} | {text.removeprefix(BOM) for text in texts}
    return {(sha384 if digits == 96 else sha256)(text).hexdigest() for text in texts}


def _read(migration: Migration, directory: str) -> bytes:
    """Return the text in memory, or read the file if its text is not in memory.

    The text in memory comes first because the file's name on disk may have another Unicode normal form.
    """
    if migration.sql:
        return migration.sql.encode()
    try:
        return Path(migration.path or f"{directory}/{migration.name}").read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{migration.name} cannot be read: {error.strerror}.") from None


_OVERRULE = "run pg-predeploy baseline --through NAME (the last applied file) to record the files as they are."


def _refuse_differing(history: History, names: Sequence[str]) -> None:
    if names:
        raise ConfigurationError(
            f"Checksum mismatch: {_named(names)} changed after {history.tool.title} applied "
            f"{'it' if len(names) == 1 else 'them'}. Restore the original content, or {_OVERRULE}"
        )


def _unfinished(history: History, what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{history.table}: {what}. {remedy}")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    shown = names[:_MAX_NAMES]
    if more or len(shown) == 1:
        return f"{', '.join(shown)}{more}"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


# The keys that match a file name


def _digits(name: str) -> list[str]:
    return re.findall(r"\A\d+", name, re.ASCII)


def _number(name: str) -> list[str]:
    return [str(int(digits)) for digits in _digits(name)]


def _stems(name: str) -> set[str]:
    """Return the name without its extension; `X.up.sql` may be recorded as `X` or `X.up`."""
    stem = name.removesuffix(".sql")
    return {stem, stem.removesuffix(".up"), *_folder(name)}


def _folder(name: str) -> list[str]:
    folder = name.rpartition("/")[0]
    return [folder] if folder else []


def _diesel_version(name: str) -> list[str]:
    return [(name.partition("/")[0]).partition("_")[0].replace("-", "")]


def _itself(name: str) -> list[str]:
    return [name]


def _prisma_name(name: str) -> list[str]:
    return _folder(name) or [name.removesuffix(".sql")]


# The entries that each tool records


def _by_text(of_file: Callable[[str], Iterable[str]]) -> Callable[[History, Rows, Sequence[Migration]], _Entries]:
    return lambda _history, rows, _files: _Entries({str(row[0]): None for row in rows}, of_file)


def _golang_migrate(history: History, rows: Rows, files: Sequence[Migration]) -> _Entries:
    """Return all versions up to the single version in the table."""
    version, dirty = max(rows)
    if dirty:
        raise _unfinished(
            history,
            f"version {version} is dirty, so its migration failed halfway",
            "Repair the database, and run migrate force VERSION",
        )
    numbers = {int(number) for migration in files for number in _number(migration.name)}
    return _Entries({str(number): None for number in sorted({*numbers, version}) if number <= version}, _number)


def _goose(_history: History, rows: Rows, _files: Sequence[Migration]) -> _Entries:
    """Return the versions whose newest row records them as applied."""
    newest: dict[int, bool] = dict(rows)
    return _Entries({str(version): None for version, is_applied in newest.items() if is_applied}, _number)


def _flyway(history: History, rows: Rows, files: Sequence[Migration]) -> _Entries:
    """Return the applied scripts by name.

    A baseline includes all lower versions. An undo or a deletion removes a version.
    """
    versions = {migration.name: _flyway_version(migration.name) for migration in files}
    applied: dict[str, tuple[int, ...]] = {}
    for version, kind, script, success, checksum in rows:
        number = _numbers(version or "")
        name = re.split(r"[/\\]", script)[-1]
        if not success:
            raise _unfinished(history, f"{name} failed", "Repair the database, and run flyway repair")
        if kind.startswith("UNDO") or kind == "DELETE":
            applied = {k: v for k, v in applied.items() if (v != number if number else k != name)}
        elif kind.endswith("BASELINE") or kind == "INIT":
            applied |= {file: found for file, found in versions.items() if found and found <= number}
        elif number:
            applied[name] = number
        else:
            applied.pop(name, None)  # an earlier run of this repeatable migration
            if name not in versions or checksum in {None, *_flyway_checksums(name, files)}:
                applied[name] = ()
    return _Entries(dict.fromkeys(applied), _itself)


def _flyway_version(name: str) -> tuple[int, ...]:
    match = _FLYWAY_VERSION.match(name)
    return _numbers(match[1]) if match else ()


def _version_in(name: str) -> tuple[int, ...]:
    """Parse the version in a file name of any supported tool into numbers."""
    return _flyway_version(name) or _numbers("".join(_digits(name)))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the version as numbers; 1.0 is the same version as 1."""
    found = [int(number) for number in re.findall(r"\d+", version, re.ASCII)]
    while len(found) > 1 and found[-1] == 0:
        found.pop()
    return tuple(found)


def _flyway_checksums(name: str, files: Sequence[Migration]) -> list[int]:
    """Return the signed CRC-32 of a file's lines; a repeatable migration whose checksum differs is pending."""
    from zlib import crc32

    texts = [migration.sql for migration in files if migration.name == name]
    sums = [crc32(text.replace("\r", "").replace("\n", "").encode()) for text in texts]
    return [value - (1 << 32) if value >> 31 else value for value in sums]


def _is_repeatable(name: str) -> bool:
    return name.startswith("R__")


def _prisma(history: History, rows: Rows, _files: Sequence[Migration]) -> _Entries:
    unfinished = [name for name, _, is_finished in rows if not is_finished]
    if unfinished:
        raise _unfinished(
            history,
            f"{_named(unfinished)} did not finish",
            "Repair the database, and run prisma migrate resolve",
        )
    return _Entries({name: checksum for name, checksum, _ in rows}, _prisma_name)


def _sqlx(history: History, rows: Rows, _files: Sequence[Migration]) -> _Entries:
    failed = [str(version) for version, success, _ in rows if not success]
    if failed:
        raise _unfinished(history, f"version {_named(failed)} failed", "Repair the database, and remove that row")
    return _Entries({str(version): checksum for version, _, checksum in rows}, _number)


def _sql_migrate(_history: History, rows: Rows, _files: Sequence[Migration]) -> _Entries:
    return _Entries({name: checksum or None for name, checksum in rows}, _itself)


_READERS: dict[str, Callable[[History, Rows, Sequence[Migration]], _Entries]] = {
    "dbmate": _by_text(_digits),
    "golang-migrate": _golang_migrate,
    "goose": _goose,
    "Flyway": _flyway,
    "Prisma": _prisma,
    "sqlx": _sqlx,
    "Supabase": _by_text(_digits),
    "node-pg-migrate": _by_text(_stems),
    "sql-migrate": _sql_migrate,
    "yoyo": _by_text(_stems),
    "diesel": _by_text(_diesel_version),
}


def _compare_drizzle(history: History, rows: Rows, files: Sequence[Migration], directory: str) -> Comparison:
    """Match rows by name if they have one (since Drizzle 1.0), and otherwise by checksum alone."""
    by_name = {key: migration for migration in files for key in _prisma_name(migration.name)}
    of_file = {migration.name: hashes(migration, directory, 64) for migration in files}
    applied, differing, strays = {}, [], []
    unnamed: Counter[str] = Counter()
    for checksum, name in rows:
        if not name or name not in by_name:
            unnamed[checksum] += 1
        elif checksum in of_file[by_name[name].name]:
            applied[by_name[name].name] = "checksum"
        else:
            differing.append(by_name[name].name)
    _refuse_differing(history, differing)
    for migration in files:
        matching = of_file[migration.name] & unnamed.keys()
        if migration.name not in applied and (checksum := next(iter(matching), None)):
            applied[migration.name] = "checksum"
            unnamed[checksum] -= 1
            unnamed = +unnamed
    strays = [checksum[:12] for checksum in unnamed.elements()]
    pending = [migration.name for migration in files if migration.name not in applied]
    if strays and pending and not all(name for _, name in rows):
        raise ConfigurationError(
            f"{len(strays)} row{'s' if len(strays) > 1 else ''} in {history.table} and {_named(pending)} have no "
            f"match: a file may have changed after it was applied. Restore the original content, or {_OVERRULE}"
        )
    return Comparison(applied, tuple(strays))
