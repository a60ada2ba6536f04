"""One line of a migration, which only the operator's own terminal may show."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predeploy.migrations.migration import Migration


class SourceLine:
    """A line of a migration and a column in it, both from 1; without a column, the whole line.

    It is attached to a log record. Printed, formatted, copied, pickled or serialised it is `<source line>` or empty:
    only a log that calls `read` can contain the text.
    """

    __slots__ = ("__column", "__line", "__migration")

    def __init__(self, migration: Migration | None, line: int, column: int | None = None) -> None:
        self.__migration = migration
        self.__line = line
        self.__column = column

    def read(self) -> tuple[int, str, int | None]:
        """Return the line's number, its text without the line end, and the column."""
        lines = self.__migration.lines() if self.__migration else iter(())
        text = next(islice(lines, self.__line - 1, None), "")
        return self.__line, text.rstrip("\r\n"), self.__column

    def __repr__(self) -> str:
        return "<source line>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceLine, (None, 1)
