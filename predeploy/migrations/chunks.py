"""Split a migration's text into chunks at statement ends; each chunk is scanned, validated and sent separately."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from predeploy.sql.splitter import Scan, line_and_column, line_breaks, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.sql.splitter import Statement

MAX_MESSAGE_CHARS = (
    1 << 20
)  # the server parses each message as a whole: 50 MB of SQL takes 462 MiB in one message, but 13 MiB in chunks
CHUNK_CHARS = 1 << 19  # two chunks are in memory at a time: the client takes 45 MiB, or 50 MiB with 1 MiB chunks


class Chunk(NamedTuple):
    """Part of a migration: starts where the previous chunk ends, and ends at the end of a statement or of the file.

    The chunk is preceded by `first` statements, `lines` line breaks and, on its first line, `column` characters.
    Offsets and lines in `scan` are relative to the start of the chunk. `last` is True for the last chunk. On the first
    chunk, `transaction_mode` is the text to write after BEGIN if the file sets a mode.
    """

    text: str
    scan: Scan
    first: int = 0
    lines: int = 0
    column: int = 0
    last: bool = True
    transaction_mode: str = ""

    @property
    def total(self) -> int | None:
        """The number of statements in the migration, or None before the last chunk."""
        return self.first + len(self.scan.statements) if self.last else None

    def place(self, offset: int) -> tuple[int, int]:
        """Convert an offset in the chunk to a line and column in the migration, both from 1."""
        line, column = line_and_column(self.text, offset)
        return self.lines + line, column + (self.column if line == 1 else 0)

    def body(self) -> tuple[int, str]:
        """Return the offset and the text to send; the last chunk omits comments before and after its statements."""
        statements = self.scan.statements
        if not self.last:
            return 0, self.text
        start, end = (statements[0].start, statements[-1].end) if statements else (0, 0)
        return start, self.text[start:end]

    def statement_at(self, number: int) -> Statement | None:
        """Return the migration's statement `number`, from 0, or None if it is not in this chunk."""
        statements = self.scan.statements
        return statements[number - self.first] if 0 <= number - self.first < len(statements) else None


def chunks_of(sql: str) -> Iterator[Chunk]:
    """Yield an in-memory text as a single chunk, or as several if it is too long for one message."""
    if len(sql) <= MAX_MESSAGE_CHARS:
        yield Chunk(sql, scan(sql))
    else:
        yield from split_chunks(sql[at : at + CHUNK_CHARS] for at in range(0, len(sql), CHUNK_CHARS))


def split_chunks(blocks: Iterator[str], chars: int = CHUNK_CHARS) -> Iterator[Chunk]:
    """Split a text at statement ends into chunks of about `chars` characters.

    The last statement read is carried over to the next chunk, because it may be incomplete. The comments before it are
    carried over too, because their meaning depends on whether a statement follows.
    """
    carried, first, lines, column = "", 0, 0, 0
    while True:
        text, ended = _read_more(carried, blocks, max(chars, len(carried)))
        found = scan(text)
        if ended:
            yield Chunk(text, found, first, lines, column)
            return
        carried = text
        if count := _statements_before_cut(found, text):
            end = found.statements[count - 1].end
            carried, text = text[end:], text[:end]
            yield Chunk(text, _before(found, count, end), first, lines, column, last=False)
            first += count
            line_start = max(text.rfind("\n"), text.rfind("\r")) + 1
            column = len(text) - line_start + (0 if line_start else column)
            lines += line_breaks(text, 0, len(text))
        del text, found  # frees memory for the next chunk


def _read_more(carried: str, blocks: Iterator[str], chars: int) -> tuple[str, bool]:
    """Return `carried` plus at least `chars` more characters, and whether the blocks are exhausted.

    A caller that doubles `chars` each time runs in linear time, even for a very long statement.
    """
    parts, length = [carried], 0
    for block in blocks:
        parts.append(block)
        length += len(block)
        if length >= chars:
            return "".join(parts), False
    return "".join(parts), True


def _statements_before_cut(found: Scan, text: str) -> int:
    """Return how many statements to put into a chunk: all but the last, or 0 if the text cannot be cut yet.

    A cut after `#` would divide a section marker such as `# --- !Downs`, which the scanner reads as a statement `#` and
    a comment.
    """
    count = max(len(found.statements) - 1, 0)
    while count and text[found.statements[count - 1].end - 1] == "#":
        count -= 1
    return count


def _before(found: Scan, count: int, end: int) -> Scan:
    """Return the part of a scan before `end`, the end of the last of `count` statements."""
    comments = [comment for comment in found.comments if comment < end]
    backslash = found.backslash if found.backslash is not None and found.backslash < end else None
    return Scan(found.statements[:count], comments, backslash, None)
