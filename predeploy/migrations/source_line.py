"""A line of a migration, which may be shown only on the operator's own terminal."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predeploy.migrations.migration import Migration


class SourceLine:
    """A reference to a line of a migration and optionally a column, both numbered from 1.

    It is attached to a log record. Printing, formatting, copying, pickling or serialising it yields `<source line>` or
    an empty line, so the text can appear only in a log that calls `read`.
    """

    __slots__ = ("__column", "__line", "__migration")

    def __init__(self, migration: Migration | None, line: int, column: int | None = None) -> None:
        self.__migration = migration
        self.__line = line
        self.__column = column

    def read(self) -> tuple[int, str, int | None]:
        """Return the line number, the text without its line end, and the column or None."""
        lines = self.__migration.lines() if self.__migration else iter(())
        text = next(islice(lines, self.__line - 1, None), "")
        return self.__line, text.rstrip("\r\n"), self.__column

    def __repr__(self) -> str:
        return "<source line>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceLine, (None, 1)
