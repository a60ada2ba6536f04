r"""Split SQL text into top-level statements, exactly where the server's own lexer and grammar do.

The rules follow PostgreSQL's scan.l and gram.y with standard_conforming_strings = on; the tests compare the results
with libpg_query. Where server versions differ (`\v` as white space, letters right after a number), the text is a syntax
error in some of them, and this module follows the newest version.

Possessive regular expressions consume runs of tokens in C, so that the running time is linear for any text. Python
handles only the characters that end a run: a semicolon, a comment, a dollar sign, a backslash, an unterminated quote.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE = r"[ \t\n\r\f\v]"
# Letters are A-Z, a-z, _ and everything above ASCII, even a no-break space. Words may continue with digits and dollar
# signs, and dollar quote tags may continue with digits. A negated character class compiles 50 times faster.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_BUT_E = r"[^\x00-@Ee\[-^`{-\x7f]"
_IN_WORD = r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_IN_TAG = r"[^\x00-/:-@\[-^`{-\x7f]"
# Each digit is treated as a separate token: a number never changes how the next token is parsed.
_PLAIN = r"[0-9!#%&()*+,.:<=>?@\[\]^`{|}~\x00-\x08\x0e-\x1f\x7f]"
_BACK = "|(?!)"  # before 3.11.5, a possessive group keeps text that a failed iteration consumed (python/cpython#106052)
# A string continues after white space that contains a line break; `--` comments count as white space here.
_CONTINUED = rf"[ \t\f\v]*+(?:--[^\n\r]*+{_BACK})?+[\n\r](?:{_SPACE}++|--[^\n\r]*+[\n\r]{_BACK})*+'"
_E_BODY = rf"(?:[^'\\]++|\\[\s\S]|''{_BACK})*+'"
_E_STRING = rf"[eE]'{_E_BODY}(?:{_CONTINUED}{_E_BODY}{_BACK})*+(?!{_CONTINUED})"


def _token(trailing: str) -> str:
    """Match one token (two for a doubled quote), then `trailing` if no other token can start with that text."""
    return (
        rf"'[^']*+'{trailing}|{_PLAIN}{trailing}|{_LETTER_BUT_E}{_IN_WORD}*+{trailing}"
        rf"|[eE](?!'){_IN_WORD}*+{trailing}|-(?!-)|/(?!\*)|\"[^\"]*+\"|{_E_STRING}"
    )


_TOKEN = re.compile(rf"{_token('')}|;")
_RUN = re.compile(rf"(?:{_SPACE}*+(?:{_token(_PLAIN + '*+')}){_BACK})++")
_WORD = re.compile(rf"(?![bBeEnNxX]'|[uU]&['\"]){_LETTER}{_IN_WORD}*+")
_WORDS = rf"{_WORD.pattern}(?:{_SPACE}++{_WORD.pattern}{_BACK}){{0,7}}+"
# Most statements: white space, bare words, then one run up to a semicolon. Excludes CREATE, which may contain
# semicolons.
_EASY = re.compile(rf"[; \t\n\r\f\v]*+(?![Cc])({_WORDS})(?:{_RUN.pattern}{_BACK})?+(?=;)")
_DOLLAR_QUOTE = re.compile(rf"\$(?:{_LETTER}{_IN_TAG}*+{_BACK})?+\$")
_GAP = re.compile(rf"{_SPACE}++|--[^\n\r]*+|/\*")
_GAP_OR_SEMICOLONS = re.compile(rf"[; \t\n\r\f\v]++|{_GAP.pattern}")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# If a text contains none of these, each quote begins or ends a plain string.
_NOT_PLAIN = re.compile(r"[$\\\"]|--|/\*")
_LITERAL = re.compile(rf"'[^']*+'(?:'[^']*+'{_BACK})*+|(?<!{_IN_WORD})[0-9]++")


class Statement(NamedTuple):  # 500,000 take 0.2 s to create; frozen dataclasses take 0.4 s
    """The location of a top-level statement, in characters, from its first token to just past its last token.

    `line` is the line number of `start`, from 1. `words` are the statement's leading bare words, in upper case, at most
    eight, up to the first string, quoted name, number or other character.
    """

    start: int
    end: int
    line: int
    words: tuple[str, ...]


class Unterminated(Exception):
    """A quote or comment is never closed. `what` describes it, and it opens at `offset` on `line` (from 1)."""

    def __init__(self, what: str, line: int, offset: int) -> None:
        super().__init__(f"the {what} that opens on line {line} is never closed")
        self.what = what
        self.line = line
        self.offset = offset


class Scan(NamedTuple):
    """The results of one pass over a text.

    `comments` are the offsets of `--` comments, and `backslash` is the offset of the first backslash outside quotes and
    comments, or None. If a quote or comment is `unterminated`, the other fields describe the text before it, and the
    last item of `statements` may be the beginning of the statement that contains it.
    """

    statements: list[Statement]
    comments: list[int]
    backslash: int | None
    unterminated: Unterminated | None


def split(sql: str) -> list[Statement]:
    """Return the top-level statements of a text. Raise `Unterminated` if a quote or comment is never closed."""
    found = scan(sql)
    if found.unterminated:
        raise found.unterminated
    return found.statements


def scan(sql: str) -> Scan:
    """Scan a text to its end, or to the first quote or comment that is never closed. The text may be invalid SQL."""
    reader = _Reader(sql)
    statements: list[Statement] = []
    unterminated = None
    line, counted, pos = 1, 0, 0
    unix = "\r" not in sql
    while not unterminated:
        if easy := _EASY.match(sql, pos):
            start, end, words = easy.start(1), easy.end(), _upper_words(easy[1])
            pos = end
        elif (start := reader.skip(pos, _GAP_OR_SEMICOLONS)) == len(sql):
            break
        elif start > pos:  # _EASY may match the statement after a comment
            pos = start
            continue
        else:
            words = _leading_words(sql, start)
            try:
                end, pos = reader.read_statement(start, words)
            except Unterminated as problem:
                # The traceback would keep this frame, and therefore the text, alive in a reference cycle.
                unterminated, end = problem.with_traceback(None), problem.offset
        line += sql.count("\n", counted, start) if unix else line_breaks(sql, counted, start)
        counted = start
        if start < end:
            statements.append(Statement(start, end, line, words))
    return Scan(statements, reader.comments, reader.backslash, unterminated)


def tokens(sql: str, statement: Statement) -> Iterator[str]:
    """Yield a scanned statement's tokens without comments; operators and numbers are split into single characters."""
    reader = _Reader(sql)
    pos = statement.start
    while pos < statement.end:
        end = reader.token_end(pos)
        yield sql[pos:end]
        pos = reader.skip(end)


def without_literals(sql: str, statement: Statement) -> str | None:
    """Replace each string and each number in a statement with `''`; return None if that requires a full parse.

    In a file with a million INSERT statements, most of them differ only in their strings and numbers.
    """
    text = sql[statement.start : statement.end]
    return None if _NOT_PLAIN.search(text) else _LITERAL.sub("''", text)


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    r"""Return the line and column of an offset, both from 1; the column is in characters.

    `\n`, `\r\n` and a lone `\r` each end a line, as in editors and in libpq's `LINE 1:`.
    """
    if offset and sql[offset - 1 : offset + 1] == "\r\n":
        line, column = line_and_column(sql, offset - 1)
        return line, column + 1
    line_start = max(sql.rfind("\n", 0, offset), sql.rfind("\r", 0, offset)) + 1
    return 1 + line_breaks(sql, 0, offset), offset - line_start + 1


def line_breaks(sql: str, start: int, end: int) -> int:
    """Return the number of line breaks between two offsets."""
    return sql.count("\n", start, end) + sql.count("\r", start, end) - sql.count("\r\n", start, end)


def _leading_words(sql: str, pos: int) -> tuple[str, ...]:
    reader = _Reader(sql)
    words: list[str] = []
    while len(words) < 8 and (word := _WORD.match(sql, pos)):
        words.append(_upper(word[0]))
        pos = reader.skip(word.end())
    return tuple(words)


@lru_cache(maxsize=64)
def _upper_words(lead: str) -> tuple[str, ...]:
    return tuple(map(_upper, _WORD.findall(lead)))


def _upper(word: str) -> str:
    """Convert a word to upper case if it is ASCII; the server folds only ASCII letters in keywords."""
    return word.upper() if word.isascii() else word


class _Reader:
    """Reads an SQL string and records the offsets of its comments and of the first backslash."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.comments: list[int] = []
        self.backslash: int | None = None

    def skip(self, pos: int, gap: re.Pattern[str] = _GAP) -> int:
        """Return the offset of the next token; an unterminated comment is treated as a token."""
        while found := gap.match(self.sql, pos):
            end = found.end()
            if self.sql[pos] == "-":
                self.comments.append(pos)
            elif self.sql[pos] == "/" and not (end := self.comment_end(pos)):
                break
            pos = end
        return pos

    def comment_end(self, pos: int) -> int:
        """Return the offset past a block comment, which may be nested, or 0 if the comment is never closed."""
        depth = 0
        for edge in _COMMENT_EDGE.finditer(self.sql, pos):
            depth += 1 if edge[0] == "/*" else -1
            if not depth:
                return edge.end()
        return 0

    def read_statement(self, pos: int, words: tuple[str, ...]) -> tuple[int, int]:
        """Return the offset past a statement's last token, and the offset of the next semicolon or end of text."""
        if words[:1] == ("CREATE",):
            kind = words[3:4] if words[1:3] == ("OR", "REPLACE") else words[1:2]
            if kind in {("FUNCTION",), ("PROCEDURE",), ("RULE",)}:
                return self.read_create(pos, routine=kind != ("RULE",))
        end = pos
        while pos < len(self.sql) and self.sql[pos] != ";":
            run = _RUN.match(self.sql, pos)
            end = run.end() if run else self.odd_end(pos)
            pos = self.skip(end)
        return end, pos

    def read_create(self, pos: int, *, routine: bool) -> tuple[int, int]:
        """Read past the semicolons between a rule's actions and in a routine's BEGIN ATOMIC body.

        No statement in such a body begins with END (gram.y, routine_body_stmt), so an END after a semicolon closes
        the body. CASE ... END and columns named end never follow a semicolon.
        """
        depth, body, end, previous = 0, False, pos, ""
        while pos < len(self.sql) and (depth or body or self.sql[pos] != ";"):
            end = self.token_end(pos)
            word = _upper(self.sql[pos:end])
            if word in {"(", ")"}:
                depth = max(0, depth + (1 if word == "(" else -1))
            elif routine and not depth and (previous, word) == ("BEGIN", "ATOMIC"):
                body, word = True, ";"
            elif (previous, word) == (";", "END"):
                body = False
            previous = word
            pos = self.skip(end)
        return end, pos

    def token_end(self, pos: int) -> int:
        token = _TOKEN.match(self.sql, pos)
        return token.end() if token else self.odd_end(pos)

    def odd_end(self, pos: int) -> int:
        """Return the offset past a token that _TOKEN does not match. Raise `Unterminated` if it is never closed."""
        if self.sql[pos] == "\\":
            self.backslash = pos if self.backslash is None else self.backslash
            return pos + 1
        if self.sql[pos] != "$":
            what = {"/": "comment", '"': "quoted identifier"}.get(self.sql[pos], "quoted string")
        elif quote := _DOLLAR_QUOTE.match(self.sql, pos):
            closing = self.sql.find(quote[0], quote.end())
            if closing >= 0:
                return closing + len(quote[0])
            what = "dollar-quoted string"
        else:
            return pos + 1
        raise Unterminated(what, line_and_column(self.sql, pos)[0], pos)
