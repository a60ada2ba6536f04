"""The data types of a run: a migration, the files of a directory, the results, and the reason for a failure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from predeploy.migrations.layout import NOT_READ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.migrations.chunks import Chunk
    from predeploy.migrations.directives import IgnoredDirective
    from predeploy.migrations.layout import IgnoredFile


def normalize(name: str) -> str:
    """Return a name in Unicode normal form C, because a checkout on another system may decompose the same name."""
    if name.isascii():
        return name
    import unicodedata  # rarely needed

    return unicodedata.normalize("NFC", name)


@dataclass(slots=True)
class Migration:
    """One file: its text without a byte order mark, or the `problem` that prevented reading it, at `problem_line`.

    The text of a large file is not kept, but read again from `path`. `checksum` is the SHA-256 of the file's bytes with
    each CRLF converted to LF, so that line endings do not change the checksum between checkouts.
    """

    name: str
    sql: str = ""
    checksum: str | None = None
    problem: str | None = None
    problem_line: int | None = None
    path: str | None = None
    _transactional: bool | None = field(default=None, repr=False, compare=False)
    repeats: bool | None = field(default=None, repr=False, compare=False)

    @property
    def transactional(self) -> bool:
        """Whether the migration runs in a transaction, which is the default unless a directive disables it."""
        if self._transactional is None:
            from predeploy.migrations.directives import is_transactional  # only for pending migrations

            self._transactional = is_transactional(self.sql)
        return self._transactional

    @property
    def repeatable(self) -> bool:
        """Whether the migration runs again, after all other migrations, whenever its checksum changes."""
        if self.repeats is None:
            from predeploy.migrations.directives import is_repeatable

            self.repeats = is_repeatable(self.sql)
        return self.repeats

    @property
    def ignored_directive(self) -> IgnoredDirective | None:
        """A comment that was probably meant to disable the transaction; only the start of a large file is searched."""
        from predeploy.migrations.directives import find_ignored, may_have_directive

        if self.problem or not self.transactional or not (self.is_large or may_have_directive(self.sql)):
            return None
        try:
            return find_ignored(islice(self.chunks(), 1 if self.is_large else None))
        except MigrationFailure:
            return None  # reported when the migration runs

    @property
    def is_large(self) -> bool:
        """Whether the file is too large for its text to be kept in memory."""
        return self.path is not None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the text in chunks that each end with a statement; down sections are blanked.

        Raise `MigrationFailure` in place of the last chunk if a large file has changed since it was first read.
        """
        from predeploy.migrations.chunks import chunks_of, split_chunks
        from predeploy.migrations.sections import forward_chunks

        if self.path is None:
            yield from forward_chunks(chunks_of(self.sql))
            return
        from predeploy.migrations.large_file import SourceFileError, read_text

        try:
            yield from forward_chunks(split_chunks(read_text(self.path, self.checksum)))
        except SourceFileError as error:
            raise MigrationFailure(str(error)) from None

    def lines(self) -> Iterator[str]:
        """Yield the lines with their line breaks, or nothing if the file can no longer be read."""
        if self.path is None:
            yield from re.findall(r"[^\n\r]*(?:\r\n|\n|\r)|[^\n\r]+", self.sql)
            return
        from predeploy.migrations.large_file import read_lines

        yield from read_lines(self.path)


class MigrationFiles(NamedTuple):
    """The files of a directory: its migrations in order, and the files that never run.

    `numeric` is True if the migrations are sorted by number instead of by code points. `found` is False if the
    directory does not exist.
    """

    migrations: tuple[Migration, ...] = ()
    ignored: tuple[IgnoredFile, ...] = ()
    numeric: bool = False
    found: bool = True

    def names(self) -> set[str]:
        """Return the names of all files on disk, including those that never run."""
        return {*(migration.name for migration in self.migrations), *(file.name for file in self.ignored)}

    def not_read(self) -> list[str]:
        """Return the names of files that resemble migrations but are not read as such."""
        return [file.name for file in self.ignored if file.kind == NOT_READ]


@dataclass(frozen=True, slots=True)
class MigrationError:
    """A failed migration and its error, with the SQLSTATE and line, or None if unknown."""

    name: str
    error: str
    sqlstate: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class MigrationResult:
    """The migrations by outcome: applied, skipped (already applied), failed, or not run after a failure."""

    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[MigrationError] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


class MigrationFailure(Exception):
    """A migration could not be applied, which is an expected outcome.

    `fields` are logged with the failure: SQLSTATE and condition, line and column, statement number and number of
    statements, command tag, object names, hint, and advice. `is_explained` is True if the advice names the cause, which
    rules out the failure of an earlier migration.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.is_explained = False
        self.fields = {key: value for key, value in fields.items() if value is not None}

    @property
    def sqlstate(self) -> str | None:
        """The server's error code, or None if the error did not come from the server."""
        return self.fields.get("sqlstate")

    def __str__(self) -> str:
        names = {"sqlstate": "SQLSTATE", "line": "line", "column": "column"}
        where = ", ".join(f"{word} {self.fields[key]}" for key, word in names.items() if key in self.fields)
        return f"{self.message} ({where})" if where else self.message

    def summary(self, name: str) -> str:
        """Return a one-line summary that starts with a location editors can open: `004.sql:37:12: ...`."""
        place = ":".join([name, *(str(self.fields[key]) for key in ("line", "column") if key in self.fields)])
        facts = [f"SQLSTATE {self.sqlstate} {self.fields.get('condition', '')}".rstrip()] if self.sqlstate else []
        facts += [self.fields["command"]] if "command" in self.fields else []
        if "statement" in self.fields and (total := self.fields.get("statements")) != 1:
            facts.append(f"statement {self.fields['statement']}" + (f" of {total}" if total else ""))
        return f"{place}: {self.message}" + (f" ({', '.join(facts)})" if facts else "")
