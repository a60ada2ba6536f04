"""A place in a file that only the operator's own terminal may show: everything else that meets it gets no text."""

from __future__ import annotations

import re
from typing import Any

from predeploy.migrations.large_file import read_line

_LINE_END = re.compile(r"\r\n|\n|\r")


class Excerpt:
    """A line of a file and a column in it, both from 1; without a column the whole line is meant.

    The file is a text, or is read at a `path` when its line is asked for.

    It travels on a log record. Printed, formatted, copied, pickled or serialised it is `<excerpt>` or empty, so that
    no log but the one that asks for `read` can hold what a file says.
    """

    __slots__ = ("__column", "__line", "__path", "__sql")

    def __init__(self, sql: str, line: int, column: int | None = None, path: str | None = None) -> None:
        self.__sql = sql
        self.__path = path
        self.__line = line
        self.__column = column

    def read(self) -> tuple[int, str, int | None]:
        """Return the line's number, its text without the line end, and the column."""
        if self.__path is not None:
            return self.__line, read_line(self.__path, self.__line), self.__column
        start, number = 0, 1
        for end in _LINE_END.finditer(self.__sql):
            if number == self.__line:
                return number, self.__sql[start : end.start()], self.__column
            start, number = end.end(), number + 1
        return number, self.__sql[start:], self.__column

    def __repr__(self) -> str:
        return "<excerpt>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Excerpt, ("", 1)
