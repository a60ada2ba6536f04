"""A directory of `.sql` files -> Migration values, decided from the files alone."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from predeploy.errors import ConfigurationError
from predeploy.migrations.checksum import Sha256

if TYPE_CHECKING:
    from pathlib import Path

MOST_KEPT_BYTES = 4 << 20  # of a file; one of 50 MB that is kept costs 100 MiB, with all that is made of it
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hold the run
_NOT_UTF8 = "line {}: the file is not UTF-8: save it as UTF-8"


class Migration(NamedTuple):  # 10,000 of them are made in 3 ms, of a frozen dataclass in 9
    """One file: its text without a byte order mark, or the `problem` that kept it from being read.

    Of a big one that runs in a transaction the text is not kept: `path` tells where to read it once more. `checksum` is
    the SHA-256 of its bytes with every CRLF taken as LF, so that a checkout on another system is the same migration.
    """

    name: str
    sql: str = ""
    checksum: str | None = None
    problem: str | None = None
    path: str | None = None

    @property
    def transactional(self) -> bool:
        """Whether the file runs in a transaction, as it does unless it says otherwise."""
        from predeploy.migrations.directives import is_transactional  # who has been applied is not asked

        return is_transactional(self.sql)


@dataclass(frozen=True, slots=True)
class MigrationError:
    """A migration that was not applied, and why; the server's code and the line, where they are known."""

    name: str
    error: str
    sqlstate: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class MigrationResult:
    """What became of each file, by name: committed now, already there, failed; `not_run` after a stop on an error."""

    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[MigrationError] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


class MigrationFiles(NamedTuple):
    """Every `.sql` file in code-point order of the names, and the names that only look like one (`.SQL`)."""

    migrations: tuple[Migration, ...] = ()
    lookalikes: tuple[str, ...] = ()


def read_migrations(directory: Path | str) -> MigrationFiles:
    """List, sort, read and hash the directory's `.sql` files; subdirectories and dot files are not looked at.

    A missing directory is an empty one. A directory that is there but cannot be listed raises
    `ConfigurationError`: it must not pass for an empty one.
    """
    try:
        names = [name for name in sorted(os.listdir(directory)) if not name.startswith(".")]
    except FileNotFoundError:
        return MigrationFiles()
    except OSError as error:
        raise ConfigurationError(f"The migrations directory cannot be listed: {error.strerror}.") from None
    folder = os.fspath(directory)
    sha256 = Sha256()
    migrations = [_read(folder, name, sha256) for name in names if name.endswith(".sql")]
    lookalikes = [name for name in names if not name.endswith(".sql") and name.lower().endswith(".sql")]
    return MigrationFiles(tuple(migrations), tuple(lookalikes))


def _read(folder: str, name: str, sha256: Sha256) -> Migration:
    try:
        name.encode()
        content = _read_file(f"{folder}/{name}")
        if content is None and (big := _read_big(name, f"{folder}/{name}")):
            return big
        if content is None:
            content = _read_file(f"{folder}/{name}", sys.maxsize) or b""
    except UnicodeEncodeError:  # os.listdir hands such bytes over as lone surrogates
        shown = name.encode("utf-8", "backslashreplace").decode()
        return Migration(shown, problem="the file's name is not UTF-8: rename it")
    except OSError as error:
        return Migration(name, problem=f"the file cannot be read: {error.strerror}")
    content = content.removeprefix(_BOM)
    checksum = sha256.hexdigest(content.replace(b"\r\n", b"\n"))
    try:
        sql = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Migration(name, checksum=checksum, problem=_NOT_UTF8.format(line))
    return Migration(name, sql, checksum)


def _read_big(name: str, path: str) -> Migration | None:
    """Read a file without keeping its text; None where it is to be kept. Raise OSError."""
    from itertools import chain  # big files are few

    from predeploy.migrations.directives import read_leading
    from predeploy.migrations.large_file import examine, read_blocks

    with closing(read_blocks(path)) as blocks:
        block = next(blocks, b"")
        head = block.decode("utf-8", "replace")
        transactional, end = read_leading(head)
        if not transactional or head.startswith("/*", end) or end >= len(head) - 1:
            return None  # it runs without a transaction, or may, as its comments go on
        checksum, bad_line = examine(chain([block], blocks))
    if bad_line:
        return Migration(name, checksum=checksum, problem=_NOT_UTF8.format(bad_line))
    return Migration(name, checksum=checksum, path=path)


def _read_file(path: str, most: int = MOST_KEPT_BYTES) -> bytes | None:
    """Read by the system's own calls, which take less than half as long as a file object; None for more bytes."""
    file = os.open(path, _FLAGS)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "Is a directory" if stat.S_ISDIR(found.st_mode) else "it is no regular file")
        if found.st_size > most:
            return None
        chunks = [os.read(file, found.st_size + 1)]
        if len(chunks[0]) == found.st_size:
            return chunks[0]
        while chunks[-1]:  # longer than it was, or than can be read at once
            chunks.append(os.read(file, _CHUNK))
        return b"".join(chunks)
    finally:
        os.close(file)
