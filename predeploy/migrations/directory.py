"""Read a directory of `.sql` files into `Migration` objects, without a connection."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from predeploy.errors import ConfigurationError
from predeploy.migrations.large_file import BOM, examine, open_regular_file
from predeploy.migrations.layout import read_layout
from predeploy.migrations.migration import Migration, MigrationFiles, normalize
from predeploy.migrations.order import order_key, same_version

try:  # the interpreter's built-in module: loading OpenSSL for hashlib takes 2.5 ms and 3 MiB
    from _sha2 import sha256  # type: ignore[import-not-found]  # since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

if TYPE_CHECKING:
    from pathlib import Path

MAX_KEPT_BYTES = 4 << 20  # per file; keeping a 50 MB text would take 100 MiB
_BLOCK_BYTES = 1 << 20
_NOT_UTF8 = "invalid UTF-8; save the file as UTF-8"


def read_migrations(directory: Path | str, *, numeric: bool = False) -> MigrationFiles:
    """List, sort, read and hash the directory's migrations; if `numeric`, sort them by number, not by code points.

    A missing directory is treated as empty. Raise `ConfigurationError` if the directory exists but cannot be listed, or
    if two Flyway migrations have the same version.
    """
    folder = os.fspath(directory)
    try:
        layout = read_layout(folder)
    except FileNotFoundError:
        return MigrationFiles(found=False)
    except OSError as error:
        raise ConfigurationError(f"Cannot list the migrations directory: {error.strerror}.") from None
    migrations = [_read(folder, name, layout.problems.get(name)) for name in layout.migrations]
    if not all(name.isascii() for name in layout.migrations):
        _refuse_same_names(migrations)
    names = [migration.name for migration in migrations]
    if numeric:
        if pair := same_version(names):
            raise ConfigurationError(f"{pair[0]} and {pair[1]} have the same version. Rename one of them.")
        for migration in migrations:
            if migration.name.startswith("R__"):  # a repeatable Flyway migration
                migration.repeats = True
    key = order_key(names, numeric=numeric)
    migrations.sort(key=lambda migration: key(migration.name))
    return MigrationFiles(tuple(migrations), tuple(layout.ignored), numeric)


def _refuse_same_names(migrations: list[Migration]) -> None:
    """Set the `problem` of a file whose name differs from another name only in its Unicode normal form."""
    taken: set[str] = set()
    for migration in migrations:
        name = normalize(migration.name)
        if name in taken:
            migration.problem = "another file has the same name in another Unicode normal form; remove one of them"
        else:
            migration.name = name
            taken.add(name)


def _read(folder: str, name: str, problem: str | None) -> Migration:
    if problem:
        return Migration(name, problem=problem)
    path = f"{folder}/{name}"
    try:
        name.encode()
        content = _read_file(path, MAX_KEPT_BYTES)
        if content is None and (large := _read_large(name, path)):
            return large
        if content is None:
            content = _read_file(path, sys.maxsize) or b""
    except UnicodeEncodeError:  # os.listdir returns invalid bytes as lone surrogates
        shown = name.encode("utf-8", "backslashreplace").decode()
        return Migration(shown, problem="the file name is not valid UTF-8; rename the file")
    except OSError as error:
        return Migration(name, problem=f"the file cannot be read: {error.strerror}")
    content = content.removeprefix(BOM)
    checksum = sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    try:
        sql = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Migration(name, checksum=checksum, problem=_NOT_UTF8, problem_line=line)
    return Migration(name, sql, checksum)


def _read_file(path: str, max_bytes: int) -> bytes | None:
    """Return the content, or None if the file exceeds `max_bytes`. System calls are twice as fast as a file object."""
    file, size = open_regular_file(path)
    try:
        if size > max_bytes:
            return None
        blocks = [os.read(file, size + 1)]
        if len(blocks[0]) == size:
            return blocks[0]
        while blocks[-1]:  # the file is growing, or is too large for one read
            blocks.append(os.read(file, _BLOCK_BYTES))
        return b"".join(blocks)
    finally:
        os.close(file)


def _read_large(name: str, path: str) -> Migration | None:
    """Examine a file; return None if its text must be kept, because it may run without a transaction."""
    found = examine(path)
    if not found.transactional:
        return None
    if found.bad_line:
        return Migration(name, checksum=found.checksum, problem=_NOT_UTF8, problem_line=found.bad_line)
    return Migration(name, checksum=found.checksum, path=path, _transactional=True, repeats=found.repeatable)
