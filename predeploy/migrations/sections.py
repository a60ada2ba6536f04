"""Blank the down sections of a migration, so that only its forward text is scanned, validated, planned and sent.

Several tools keep both directions in one file, separated by marks. Everything from a down mark to the next up mark is
replaced by spaces, whichever tools the two marks belong to. Line ends are kept, so offsets, lines and columns remain
those of the file. A mark counts only if it is alone on its line and is a comment, not part of a string.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from predeploy.sql.splitter import scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from predeploy.migrations.chunks import Chunk

_END = r"[;:.]?(?=[ \t\r\n]|\Z)"
_WHOLE_LINE = r"[- \t]*+[;:.]?[ \t]*+(?=[\r\n]|\Z)"
_MARK = rf"""(?:\A|(?<=[\r\n]))[ \t\f\v]*+(?P<mark>
        --[ \t]*+(?:migrate:[ \t]*+|\+(?:goose|migrate|micrate)[ \t]++|rambler[ \t]++)(?P<tool>up|down){_END}
      | (?:--|\#)[- \t]*+!(?P<play>up|down)s{_END}
      | --[- \t]*+(?P<node>up|down)[ \t]++migration{_WHOLE_LINE}  # node-pg-migrate
      | --[ \t]*+//[ \t]*+@undo{_END}                          # MyBatis
      | --[- \t]*+create[ ]above[ ]/[ ]drop[ ]below{_WHOLE_LINE}  # tern
    )"""
# Each mark that changes a text contains one of these words; searching for them is much faster than searching for marks.
_WORDS = ("down", "@undo", "drop below", "!ups")
_LINES_BEFORE_CODE = r"(?:[ \t]*+(?:(?:#|--)[^\r\n]*+)?(?:\r\n|\r|\n))*+"
_HASH_LINE = r"(?:\A|(?<=[\r\n]))[ \t]*+#[^\r\n]*+"
_NOT_LINE_END = re.compile(r"[^\r\n]+")


def forward_chunks(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks with their down sections blanked and their statements renumbered.

    A chunk that has no statement left is omitted, except the last one.
    """
    in_down, first = False, 0
    for chunk in chunks:
        text = chunk.text
        if in_down or _may_have_marks(text):
            text, in_down = _blank_down_sections(text, chunk.column, in_down=in_down)
        if text is not chunk.text:
            chunk = chunk._replace(text=text, scan=scan(text))  # noqa: PLW2901  frees the original
        if chunk.scan.statements or chunk.last:
            yield chunk if chunk.first == first else chunk._replace(first=first)
            first += len(chunk.scan.statements)
        del chunk, text  # frees memory for the next chunk


@lru_cache(maxsize=1)
def _marks() -> re.Pattern[str]:
    return re.compile(_MARK, re.VERBOSE | re.IGNORECASE)  # takes 3 ms; most runs see no marks


def _may_have_marks(text: str) -> bool:
    small = text.lower()
    return any(word in small for word in _WORDS)


def _blank_down_sections(text: str, column: int, *, in_down: bool) -> tuple[str, bool]:
    """Return the forward text and whether its end is in a down section.

    The text starts where a statement may start, after `column` characters of its first line.
    """
    marks = [mark for mark in _marks().finditer(text) if mark.start() or not column]
    if not in_down and all(_is_up(mark) and text[mark.start("mark")] != "#" for mark in marks):
        return text, False
    if in_down and not any(map(_is_up, marks)):
        return spaces(text), True
    text = _without_header(text, marks)
    found = scan(_with_hashes_as_comments(text, marks))
    comments = set(found.comments)
    parts, end, down_from = [], 0, 0
    for mark in marks:
        at = mark.start("mark")
        if at not in comments:
            continue
        if _is_up(mark):
            line_end = _line_end(text, at) if text[at] == "#" else at
            parts.append(spaces(text[down_from:at]) if in_down else text[end:at])
            parts.append(spaces(text[at:line_end]))
            in_down, end = False, line_end
        elif not in_down:
            parts += [text[end:at], ";"]  # a statement ends at the mark, even without a semicolon
            in_down, down_from = True, at + 1
    if not in_down:
        parts.append(text[end:])
    else:
        unclosed = found.unterminated.offset if found.unterminated else len(text)
        if not any(_is_up(mark) and mark.start() > unclosed for mark in marks):
            unclosed = len(text)  # otherwise keep the quote, so that validation rejects the file
        parts += [spaces(text[down_from:unclosed]), text[unclosed:]]
    return "".join(parts), in_down


def _is_up(mark: re.Match[str]) -> bool:
    return (mark["tool"] or mark["play"] or mark["node"] or "down").lower() == "up"


def _line_end(text: str, at: int) -> int:
    line = _NOT_LINE_END.match(text, at)
    return line.end() if line else at


def _without_header(text: str, marks: list[re.Match[str]]) -> str:
    """Blank the lines above Play's first mark that begin with `#`, which may contain quotes."""
    at = next((mark.start("mark") for mark in marks if text[mark.start("mark")] == "#"), 0)
    code = re.match(_LINES_BEFORE_CODE, text)
    if not at or not code or code.end() < at:
        return text
    return re.sub(_HASH_LINE, lambda line: spaces(line[0]), text[:at]) + text[at:]


def _with_hashes_as_comments(text: str, marks: list[re.Match[str]]) -> str:
    """Replace the `#` of Play's marks and the character after it by `--`, for the scanner."""
    parts, end = [], 0
    for mark in marks:
        at = mark.start("mark")
        if text[at] == "#":
            parts += [text[end:at], "--"]
            end = at + 2
    return "".join([*parts, text[end:]])


def spaces(text: str) -> str:
    """Replace everything but the line ends by spaces."""
    return _NOT_LINE_END.sub(lambda line: " " * len(line[0]), text)
