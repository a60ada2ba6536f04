"""Find the cause of a syntax error or an unknown name in a file's text: text that is not SQL, or odd characters."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from predeploy.sql.literals import without_strings

if TYPE_CHECKING:
    from predeploy.migrations.chunks import Chunk
    from predeploy.sql.splitter import Statement

_SYNTAX_ERROR = "42601"
_UNKNOWN_NAME = ("42601", "42703", "42704", "42883", "42P01")  # an invisible character may be part of the name

_GIT_LFS = "version https://git-lfs.github.com/spec/"
_HTML = re.compile(r"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_CONFLICT = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)

# Placeholders that other tools replace before they send the text; the server reports them as syntax errors.
_PLACEHOLDERS = (
    (re.compile(r"\{\{[^\r\n]*?\}\}"), "{{ ... }} is a template placeholder"),
    (re.compile(r"\$\{[^{}\r\n]*\}"), "${...} is a Flyway or shell placeholder"),
    (re.compile(r"@extschema(?::\w+)?@"), "@extschema@ is a placeholder for extension scripts"),
    (re.compile(r"@\w+@"), "@...@ is a placeholder"),
)
_VARIABLE = ":name is a psql or application variable"
_COLON_NAME = re.compile(r"(?<!:):(?:[A-Za-z_]\w*|'\w+'|\"\w+\")")
_MAX_PLACEHOLDER_CHARS = 200
_FILLED_IN_ELSEWHERE = "{}, which pg-predeploy does not replace: write the value itself."

# Characters that editors hide, or show like a space or a quotation mark.
_SPACES = {0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000}
_CONTROLS = {*range(0x09), 0x0B, *range(0x0E, 0x20), *range(0x7F, 0xA0)}
_INVISIBLE = {*_CONTROLS, 0xAD, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), 0xFEFF}
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201A: "'", 0x2032: "'", 0x201C: '"', 0x201D: '"', 0x201E: '"', 0x2033: '"'}
_ODD = re.compile("[" + "".join(map(re.escape, map(chr, sorted(_SPACES | _INVISIBLE | _QUOTES.keys())))) + "]")


def text_advice(sqlstate: str | None, chunk: Chunk, statement: Statement | None, at: int) -> str | None:
    """Return advice if the file's text explains the error at offset `at` of the chunk, or None."""
    sql = chunk.text
    if sqlstate == _SYNTAX_ERROR:
        if sql.startswith(_GIT_LFS):
            return "This is a Git LFS pointer, not the file itself. Run git lfs pull before you build the image."
        if _HTML.match(sql):
            return "This is an HTML page, not SQL. Download the raw file."
        if conflict := _CONFLICT.search(sql):
            return f"Line {chunk.place(conflict.start())[0]} is a Git conflict marker. Resolve the conflict."
        if placeholder := _placeholder_at(sql, at):
            return _FILLED_IN_ELSEWHERE.format(placeholder)
    if sqlstate in _UNKNOWN_NAME and statement and (odd := _odd_character(chunk, statement)) is not None:
        line, column = chunk.place(odd)
        return f"Line {line}, column {column} has {_describe(sql[odd])}."
    return None


def _placeholder_at(sql: str, at: int) -> str | None:
    start, end = max(at - _MAX_PLACEHOLDER_CHARS, 0), at + _MAX_PLACEHOLDER_CHARS
    for pattern, what in _PLACEHOLDERS:
        if any(found.start() <= at <= found.end() for found in pattern.finditer(sql, start, end)):
            return what
    return _VARIABLE if _COLON_NAME.match(sql, at) else None


def _odd_character(chunk: Chunk, statement: Statement) -> int | None:
    """Return the offset of the statement's first odd character outside strings, quoted names and comments."""
    text = without_strings(chunk.text[statement.start : statement.end])
    found = _ODD.search(text)
    return statement.start + found.start() if found else None


def _describe(char: str) -> str:
    code = ord(char)
    name = f"({unicodedata.name(char, 'unnamed').lower()}, U+{code:04X})"
    if code in _QUOTES:
        return f"a typographic quotation mark {name}: write {_QUOTES[code]} instead"
    if code in _SPACES:
        return f"a character that resembles a space {name}: write a space instead"
    return f"an invisible character {name}: remove it"
