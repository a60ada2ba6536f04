"""A directory of `.sql` files -> Migration values, decided from the files alone."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from predeploy.blocks import examine, read_blocks
from predeploy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

MOST_KEPT_BYTES = 4 << 20  # of a file; one of 50 MB that is kept costs 100 MiB, with all that is made of it
_BOM = b"\xef\xbb\xbf"
_NOT_UTF8 = "line {}: the file is not UTF-8: save it as UTF-8"
_GAP = re.compile(r"\s++|--[^\r\n]*+|/\*.*?\*/", re.DOTALL)
_NO_TRANSACTION = re.compile(
    r"""(?:
        --[ ]*migrate:no-transaction
      | --[ ]*no-transaction                          # several runners
      | --[ ]*\+goose[ ]+NO[ ]+TRANSACTION            # goose
      | --[ ]*migrate:up\b[^\n]*\btransaction:[ ]*false # dbmate
      | ----[ ]*tern:[ ]*disable-tx[ ]*----           # tern
    )[ \t]*""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its text without a byte order mark, or the `problem` that kept it from being read.

    Of a big one that runs in a transaction the text is not kept: `path` tells where to read it once more. `checksum` is
    the SHA-256 of its bytes with every CRLF taken as LF, so that a checkout on another system is the same migration.
    """

    name: str
    sql: str = ""
    checksum: str | None = None
    transactional: bool = True
    problem: str | None = None
    path: str | None = None


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


@dataclass(frozen=True, slots=True)
class MigrationFiles:
    """Every `.sql` file in code-point order of the names, and the names that only look like one (`.SQL`)."""

    migrations: tuple[Migration, ...] = ()
    lookalikes: tuple[str, ...] = ()


def read_migrations(directory: Path) -> MigrationFiles:
    """List, sort, read and hash the directory's `.sql` files; subdirectories and dot files are not looked at.

    A missing directory is an empty one. A directory that is there but cannot be listed raises
    `ConfigurationError`: it must not pass for an empty one.
    """
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        return MigrationFiles()
    except OSError as error:
        raise ConfigurationError(f"The migrations directory cannot be listed: {error.strerror}.") from None
    migrations = tuple(_read(directory, name) for name in names if name.endswith(".sql"))
    lookalikes = tuple(n for n in names if n.lower().endswith(".sql") and not n.endswith(".sql"))
    return MigrationFiles(migrations, lookalikes)


def _read(directory: Path, name: str) -> Migration:
    if not _is_unicode(name):
        shown = name.encode("utf-8", "backslashreplace").decode()
        return Migration(shown, problem="the file's name is not UTF-8: rename it")
    path = os.path.join(directory, name)  # noqa: PTH118  three times as fast as Path
    try:
        content = _read_file(path)
        if content is None:
            if big := _read_big(name, path):
                return big
            content = b"".join(read_blocks(path))
    except OSError as error:
        return Migration(name, problem=f"the file cannot be read: {error.strerror}")
    content = content.removeprefix(_BOM)
    checksum = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    try:
        sql = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Migration(name, checksum=checksum, problem=_NOT_UTF8.format(line))
    return Migration(name, sql, checksum, _is_transactional(sql))


def _read_big(name: str, path: str) -> Migration | None:
    """Read a file without keeping its text; None where it is to be kept. Raise OSError."""
    with closing(read_blocks(path)) as blocks:
        block = next(blocks, b"")
        head = block.decode("utf-8", "replace")
        transactional, end = _read_leading(head)
        if not transactional or head.startswith("/*", end) or end >= len(head) - 1:
            return None  # it runs without a transaction, or may, as its comments go on
        checksum, bad_line = examine(chain([block], blocks))
    if bad_line:
        return Migration(name, checksum=checksum, problem=_NOT_UTF8.format(bad_line))
    return Migration(name, checksum=checksum, path=path)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # os.scandir hands such bytes over as lone surrogates
        return False
    return True


def _read_file(path: str) -> bytes | None:
    """Return what is in a file, None if that is more than is kept; raise OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        return None if status.st_size > MOST_KEPT_BYTES else file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO must not hold the run


def _is_transactional(sql: str) -> bool:
    """Look for a directive among the `--` comments before the first statement; one in a block comment is off."""
    return _read_leading(sql)[0]


def _read_leading(sql: str) -> tuple[bool, int]:
    """Return whether no directive among the leading comments switches the transaction off, and where they end."""
    position = 0
    while gap := _GAP.match(sql, position):
        if _NO_TRANSACTION.fullmatch(gap[0]):
            return False, position
        position = gap.end()
    return True, position
