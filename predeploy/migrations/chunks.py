"""A file's statements, piece by piece: one piece where its text is kept, else as much as is read at a time."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from predeploy.migrations.large_file import read_text
from predeploy.sql.splitter import Scan, line_and_column, line_ends, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.migrations.directory import Migration
    from predeploy.sql.splitter import Statement

MESSAGE_CHARS = 1 << 20  # the server parses a message whole: 50 MB in one cost it 462 MiB, in such 13
PIECE_CHARS = 1 << 19  # of a file that is not kept, two in memory: the client takes 45 MiB, with a MiB each 50


class Piece(NamedTuple):
    """Text that begins behind a statement and ends with one, but for the file's first and `last`, and its scan.

    Before it stand so many statements (`first`), so many line ends (`lines`) and, in the line that it begins in, so
    many characters (`column`). What the scan tells is counted from the piece's own beginning.
    """

    text: str
    scan: Scan
    first: int = 0
    lines: int = 0
    column: int = 0
    last: bool = True

    @property
    def total(self) -> int | None:
        """How many statements the file has; None while that is not known."""
        return self.first + len(self.scan.statements) if self.last else None

    def place(self, offset: int) -> tuple[int, int]:
        """Return the file's line and column, from 1, of an offset in the text."""
        line, column = line_and_column(self.text, offset)
        return self.lines + line, column + (self.column if line == 1 else 0)

    def messages(self) -> Iterator[tuple[int, list[Statement]]]:
        """Yield what is sent at a time: the number of its first statement, and the statements."""
        first, statements = self.first, self.scan.statements
        if first or not self.last or not statements:
            yield first, statements
            return
        for _, group in groupby(statements, key=lambda statement: statement.start // MESSAGE_CHARS):
            together = list(group)
            yield first, together
            first += len(together)

    def text_of(self, statements: list[Statement] | None = None) -> tuple[int, str]:
        """Return the text from the first token of statements, by default all, to their last, and where it begins."""
        statements = self.scan.statements if statements is None else statements
        start, end = (statements[0].start, statements[-1].end) if statements else (0, 0)
        return start, self.text[start:end]


def pieces_of(migration: Migration) -> Iterator[Piece | None]:
    """Yield what there is to be sent of a file, None while a statement goes on for longer than is read at a time.

    Raise `Unreadable` before the last piece of one that is not kept.
    """
    if migration.path is None:
        yield whole(migration.sql)
    else:
        yield from cut(read_text(migration.path, migration.checksum))


def whole(sql: str) -> Piece:
    """Return a text as one piece."""
    return Piece(sql, scan(sql))


def cut(blocks: Iterator[str], chars: int = PIECE_CHARS) -> Iterator[Piece | None]:
    """Cut a text where statements end, into pieces of about so many characters; None where more has to be read first.

    The last statement of what has been read is left for the next piece: it may go on. So are comments behind the one
    before, as what they mean depends on whether a statement follows.
    """
    carried, first, lines, column = "", 0, 0, 0
    while True:
        text, ended = _more(carried, blocks, max(chars, len(carried)))
        found = scan(text)
        if ended:
            yield Piece(text, found, first, lines, column)
            return
        carried = text
        if len(found.statements) > 1:
            end = found.statements[-2].end
            carried, text = text[end:], text[:end]
            yield Piece(text, _before(found, end), first, lines, column, last=False)
            first += len(found.statements) - 1
            line_start = max(text.rfind("\n"), text.rfind("\r")) + 1
            column = len(text) - line_start + (0 if line_start else column)
            lines += line_ends(text, 0, len(text))
        else:
            yield None
        del text, found  # the next one's memory


def _more(carried: str, blocks: Iterator[str], chars: int) -> tuple[str, bool]:
    """Return what is carried and at least so many characters more, and whether the blocks have ended.

    Whoever wants as much more as is carried takes linear time, however long a statement is.
    """
    parts, length = [carried], 0
    for block in blocks:
        parts.append(block)
        length += len(block)
        if length >= chars:
            return "".join(parts), False
    return "".join(parts), True


def _before(found: Scan, end: int) -> Scan:
    """Return what was found before an offset, at which the statement before the last one ends."""
    comments = [comment for comment in found.comments if comment < end]
    backslash = found.backslash if found.backslash is not None and found.backslash < end else None
    return Scan(found.statements[:-1], comments, backslash, None)
