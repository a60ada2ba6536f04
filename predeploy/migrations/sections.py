"""Blank the down sections of a migration, so that only its forward text is scanned, validated, planned and sent.

Several tools keep both directions in one file, separated by markers. Everything from a down marker to the next up
marker is replaced with spaces, even if the two markers belong to different tools. Line breaks are kept, so offsets,
lines and columns remain those of the file. A marker counts only if it is alone on its line and is a comment, not part
of a string.
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
_MARKER = rf"""(?:\A|(?<=[\r\n]))[ \t\f\v]*+(?P<marker>
        --[ \t]*+(?:migrate:[ \t]*+|\+(?:goose|migrate|micrate)[ \t]++|rambler[ \t]++)(?P<tool>up|down){_END}
      | (?:--|\#)[- \t]*+!(?P<play>up|down)s{_END}
      | --[- \t]*+(?P<node>up|down)[ \t]++migration{_WHOLE_LINE}  # node-pg-migrate
      | --[ \t]*+//[ \t]*+@undo{_END}                          # MyBatis
      | --[- \t]*+create[ ]above[ ]/[ ]drop[ ]below{_WHOLE_LINE}  # tern
    )"""
# Each marker that changes a text contains one of these words. Searching for them is much faster than for markers.
_WORDS = ("down", "@undo", "drop below", "!ups")
_LINES_BEFORE_CODE = r"(?:[ \t]*+(?:(?:#|--)[^\r\n]*+)?(?:\r\n|\r|\n))*+"
_HASH_LINE = r"(?:\A|(?<=[\r\n]))[ \t]*+#[^\r\n]*+"
_NOT_LINE_BREAK = re.compile(r"[^\r\n]+")


def forward_chunks(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks with their down sections blanked and their statements renumbered.

    A chunk that has no statement left is omitted, except the last one.
    """
    in_down, first = False, 0
    for chunk in chunks:
        text = chunk.text
        if in_down or _may_have_markers(text):
            text, in_down = _blank_down_sections(text, chunk.column, in_down=in_down)
        if text is not chunk.text:
            chunk = chunk._replace(text=text, scan=scan(text))  # noqa: PLW2901  frees the original
        if chunk.scan.statements or chunk.last:
            yield chunk if chunk.first == first else chunk._replace(first=first)
            first += len(chunk.scan.statements)
        del chunk, text  # frees memory for the next chunk


@lru_cache(maxsize=1)
def _markers() -> re.Pattern[str]:
    return re.compile(_MARKER, re.VERBOSE | re.IGNORECASE)  # takes 3 ms; most runs see no markers


def _may_have_markers(text: str) -> bool:
    small = text.lower()
    return any(word in small for word in _WORDS)


def _blank_down_sections(text: str, column: int, *, in_down: bool) -> tuple[str, bool]:
    """Return the forward text and whether its end is in a down section.

    The text starts where a statement may start, after `column` characters of its first line.
    """
    markers = [marker for marker in _markers().finditer(text) if marker.start() or not column]
    if not in_down and all(_is_up(marker) and text[marker.start("marker")] != "#" for marker in markers):
        return text, False
    if in_down and not any(map(_is_up, markers)):
        return spaces(text), True
    text = _without_header(text, markers)
    found = scan(_with_hashes_as_comments(text, markers))
    comments = set(found.comments)
    parts, end, down_from = [], 0, 0
    for marker in markers:
        at = marker.start("marker")
        if at not in comments:
            continue
        if _is_up(marker):
            line_end = _line_end(text, at) if text[at] == "#" else at
            parts.append(spaces(text[down_from:at]) if in_down else text[end:at])
            parts.append(spaces(text[at:line_end]))
            in_down, end = False, line_end
        elif not in_down:
            parts += [text[end:at], ";"]  # a statement ends at the marker, even without a semicolon
            in_down, down_from = True, at + 1
    if not in_down:
        parts.append(text[end:])
    else:
        unclosed = found.unterminated.offset if found.unterminated else len(text)
        if not any(_is_up(marker) and marker.start() > unclosed for marker in markers):
            unclosed = len(text)  # otherwise keep the quote, so that validation rejects the file
        parts += [spaces(text[down_from:unclosed]), text[unclosed:]]
    return "".join(parts), in_down


def _is_up(marker: re.Match[str]) -> bool:
    return (marker["tool"] or marker["play"] or marker["node"] or "down").lower() == "up"


def _line_end(text: str, at: int) -> int:
    line = _NOT_LINE_BREAK.match(text, at)
    return line.end() if line else at


def _without_header(text: str, markers: list[re.Match[str]]) -> str:
    """Blank the `#` lines above Play's first marker, because they may contain quotes."""
    at = next((marker.start("marker") for marker in markers if text[marker.start("marker")] == "#"), 0)
    code = re.match(_LINES_BEFORE_CODE, text)
    if not at or not code or code.end() < at:
        return text
    return re.sub(_HASH_LINE, lambda line: spaces(line[0]), text[:at]) + text[at:]


def _with_hashes_as_comments(text: str, markers: list[re.Match[str]]) -> str:
    """Replace the `#` of each Play marker and the next character with `--`, for the scanner."""
    parts, end = [], 0
    for marker in markers:
        at = marker.start("marker")
        if text[at] == "#":
            parts += [text[end:at], "--"]
            end = at + 2
    return "".join([*parts, text[end:]])


def spaces(text: str) -> str:
    """Replace everything except line breaks with spaces."""
    return _NOT_LINE_BREAK.sub(lambda line: " " * len(line[0]), text)
