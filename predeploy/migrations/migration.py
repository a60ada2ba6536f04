"""The values of a run: a migration, the files of a directory, the outcome of each, and the reason of a failure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.migrations.chunks import Chunk


@dataclass(slots=True)
class Migration:
    """One file: its text without a byte order mark, or the `problem` that kept it from being read.

    The text of a large one is not kept but read again from `path`. `checksum` is the SHA-256 of the file's bytes with
    every CRLF as LF, so that a checkout on another system is the same migration.
    """

    name: str
    sql: str = ""
    checksum: str | None = None
    problem: str | None = None
    path: str | None = None
    _transactional: bool | None = field(default=None, repr=False, compare=False)

    @property
    def transactional(self) -> bool:
        """Whether the migration runs in a transaction: the default, unless a directive turns it off."""
        if self._transactional is None:
            from predeploy.migrations.directives import is_transactional  # only for pending migrations

            self._transactional = is_transactional(self.sql)
        return self._transactional

    @property
    def is_large(self) -> bool:
        """Whether the text is not kept."""
        return self.path is not None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the text in chunks that end with a statement.

        Raise `MigrationFailure`, before the last chunk, for a large file that has changed since it was read.
        """
        from predeploy.migrations.chunks import chunks_of, split_chunks

        if self.path is None:
            yield from chunks_of(self.sql)
            return
        from predeploy.migrations.large_file import SourceFileError, read_text

        try:
            yield from split_chunks(read_text(self.path, self.checksum))
        except SourceFileError as error:
            raise MigrationFailure(str(error)) from None

    def lines(self) -> Iterator[str]:
        """Yield the lines, each with its end; none if the file can no longer be read."""
        if self.path is None:
            yield from re.findall(r"[^\n\r]*(?:\r\n|\n|\r)|[^\n\r]+", self.sql)
            return
        from predeploy.migrations.large_file import read_lines

        yield from read_lines(self.path)


class MigrationFiles(NamedTuple):
    """Every `.sql` file in code-point order of the names, and the names that only look like one (`.SQL`)."""

    migrations: tuple[Migration, ...] = ()
    lookalikes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationError:
    """A migration that was not applied, and why; SQLSTATE and line if they are known."""

    name: str
    error: str
    sqlstate: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class MigrationResult:
    """The names of the migrations: applied, skipped (applied before), failed, and `not_run` after a failure."""

    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[MigrationError] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


class MigrationFailure(Exception):
    """A migration could not be applied: an expected outcome.

    `fields` are those of the log line: sqlstate and condition, line and column, number of the statement and of all
    statements, command tag, names of objects, hint, advice.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = {key: value for key, value in fields.items() if value is not None}

    @property
    def sqlstate(self) -> str | None:
        """The server's error code, if the server reported the error."""
        return self.fields.get("sqlstate")

    def __str__(self) -> str:
        names = {"sqlstate": "SQLSTATE", "line": "line", "column": "column"}
        where = ", ".join(f"{word} {self.fields[key]}" for key, word in names.items() if key in self.fields)
        return f"{self.message} ({where})" if where else self.message

    def summary(self, name: str) -> str:
        """Return one line about the migration of that name that editors can follow: `004.sql:37:12: ...`."""
        place = ":".join([name, *(str(self.fields[key]) for key in ("line", "column") if key in self.fields)])
        facts = [f"SQLSTATE {self.sqlstate} {self.fields.get('condition', '')}".rstrip()] if self.sqlstate else []
        facts += [self.fields["command"]] if "command" in self.fields else []
        if "statement" in self.fields and (total := self.fields.get("statements")) != 1:
            facts.append(f"statement {self.fields['statement']}" + (f" of {total}" if total else ""))
        return f"{place}: {self.message}" + (f" ({', '.join(facts)})" if facts else "")
