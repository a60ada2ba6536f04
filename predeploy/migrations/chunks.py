"""The text of a migration in chunks that end with a statement; each is scanned, validated and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from predeploy.sql.splitter import Scan, line_and_column, line_ends, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.sql.splitter import Statement

MAX_MESSAGE_CHARS = (
    1 << 20
)  # the server parses a message as a whole: 50 MB takes 462 MiB in one message, 13 MiB in chunks
CHUNK_CHARS = 1 << 19  # two are in memory: the client takes 45 MiB, or 50 MiB with chunks of 1 MiB


class Chunk(NamedTuple):
    """Part of a migration: it begins after a statement and ends with one, except at the ends of the file.

    Before it are `first` statements, `lines` line ends and, in its first line, `column` characters. The offsets and
    lines of its `scan` count from its own start. `last` marks the last chunk.
    """

    text: str
    scan: Scan
    first: int = 0
    lines: int = 0
    column: int = 0
    last: bool = True

    @property
    def total(self) -> int | None:
        """How many statements the migration has; None before the last chunk."""
        return self.first + len(self.scan.statements) if self.last else None

    def place(self, offset: int) -> tuple[int, int]:
        """Return the migration's line and column, from 1, of an offset in the chunk."""
        line, column = line_and_column(self.text, offset)
        return self.lines + line, column + (self.column if line == 1 else 0)

    def body(self) -> tuple[int, str]:
        """Return the text to send, and its offset: the last chunk without trailing text, such as an open comment."""
        statements = self.scan.statements
        if not self.last:
            return 0, self.text
        start, end = (statements[0].start, statements[-1].end) if statements else (0, 0)
        return start, self.text[start:end]

    def statement_at(self, number: int) -> Statement | None:
        """Return the statement with that number in the migration, from 0, if this chunk has it."""
        statements = self.scan.statements
        return statements[number - self.first] if 0 <= number - self.first < len(statements) else None


def chunks_of(sql: str) -> Iterator[Chunk]:
    """Yield a text in memory as one chunk, unless it is too long for one message."""
    if len(sql) <= MAX_MESSAGE_CHARS:
        yield Chunk(sql, scan(sql))
    else:
        yield from split_chunks(sql[at : at + CHUNK_CHARS] for at in range(0, len(sql), CHUNK_CHARS))


def split_chunks(blocks: Iterator[str], chars: int = CHUNK_CHARS) -> Iterator[Chunk]:
    """Cut a text where statements end, into chunks of about `chars` characters.

    The last statement that was read goes to the next chunk, because it may continue. So do the comments before it,
    because their meaning depends on whether a statement follows.
    """
    carried, first, lines, column = "", 0, 0, 0
    while True:
        text, ended = _read_more(carried, blocks, max(chars, len(carried)))
        found = scan(text)
        if ended:
            yield Chunk(text, found, first, lines, column)
            return
        carried = text
        if len(found.statements) > 1:
            end = found.statements[-2].end
            carried, text = text[end:], text[:end]
            yield Chunk(text, _before(found, end), first, lines, column, last=False)
            first += len(found.statements) - 1
            line_start = max(text.rfind("\n"), text.rfind("\r")) + 1
            column = len(text) - line_start + (0 if line_start else column)
            lines += line_ends(text, 0, len(text))
        del text, found  # frees memory for the next one


def _read_more(carried: str, blocks: Iterator[str], chars: int) -> tuple[str, bool]:
    """Return `carried` and at least `chars` characters more, and whether the blocks have ended.

    A caller that doubles `chars` each time takes linear time, even for a very long statement.
    """
    parts, length = [carried], 0
    for block in blocks:
        parts.append(block)
        length += len(block)
        if length >= chars:
            return "".join(parts), False
    return "".join(parts), True


def _before(found: Scan, end: int) -> Scan:
    """Return the findings before an offset at which the second-to-last statement ends."""
    comments = [comment for comment in found.comments if comment < end]
    backslash = found.backslash if found.backslash is not None and found.backslash < end else None
    return Scan(found.statements[:-1], comments, backslash, None)
