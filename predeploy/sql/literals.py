"""Extract string literals, names and passwords from SQL text, for redaction.

This runs only when a server message about a migration is logged, because the message may quote secrets from the file.

Unlike the lexer in `splitter`, this module decodes strings, descends into code inside strings (functions, DO blocks,
EXECUTE), and reads invalid SQL to the end.

In invalid SQL, a secret may occur outside quotes: unquoted after PASSWORD, or where a quote is missing. Words in such
places are marked as `doubtful`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from predeploy.sql.keywords import KEYWORDS, TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_CHARS = 4 << 20  # takes about 1.5 s to read
_MAX_DEPTH = 4  # of nested strings

_COMMENT = r"--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*(?:[^*]|\*(?!/))*\*/)*\*/"
_QUOTED_OR_COMMENT = re.compile(
    rf"(?P<comment>{_COMMENT})"
    r"|(?<![\w$])[eE]'(?P<escaped>[^'\\]*(?:(?:\\[\s\S]|'')[^'\\]*)*)(?:'|\Z)"
    r"|(?<![\w$])[uU]&'(?P<unicode>[^']*(?:''[^']*)*)(?:'|\Z)"
    r"|'(?P<plain>[^']*(?:''[^']*)*)(?:'|\Z)"
    r'|"(?P<name>[^"]*(?:""[^"]*)*)(?:"|\Z)'
    r"|(?<![\w$])(?P<tag>\$(?:[^\W\d]\w*)?\$)(?P<body>[\s\S]*?)(?:(?P=tag)|\Z)"
)
_WORD = re.compile(r"[^\W\d][\w$]*")
_GAP = re.compile(rf"\s+|{_COMMENT}")
# A string that begins like this is code, such as a function body or an argument of EXECUTE: its words are names, and
# its strings are literals.
_CODE = re.compile(
    r"(?:<<|\#|(?:ALTER|ANALYZE|BEGIN|CALL|CLUSTER|COMMENT|COPY|CREATE|DECLARE|DELETE|DO|DROP|EXECUTE|EXPLAIN|GRANT|IF|"
    r"IMPORT|INSERT|LISTEN|LOCK|MERGE|NOTIFY|PERFORM|RAISE|REASSIGN|REFRESH|REINDEX|RESET|RETURN|REVOKE|SECURITY|SELECT|"
    r"SET|SHOW|TABLE|TRUNCATE|UPDATE|VACUUM|VALUES|WITH)\b)",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{1,2})|([0-7]{1,3})|([\s\S]))|''")
_UNICODE = re.compile(r"\\(?:\+([0-9a-fA-F]{6})|([0-9a-fA-F]{4}))|''|\\\\")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}

_SPACES = r"\s{0,50}"  # bounded, to keep the running time linear
_KEYWORD = r"(?:passw(?:or)?d|passphrase)"
_BEFORE_PASSWORD = re.compile(rf"{_KEYWORD}{_SPACES}(?:=>|:=|[=:(,])?{_SPACES}\Z", re.IGNORECASE)
# PASSWORD 'x', password = "x", "password": "x", password=x, scheme://user:x@host
_PASSWORD_IN_TEXT = re.compile(
    rf"""{_KEYWORD}["']?{_SPACES}(?:
        (?:=>|:=|[=:(,])?{_SPACES}(?:[eE]|[uU]&)?(?:'(?P<single>[^']*(?:''[^']*)*)|"(?P<double>[^"]*)|\$(\w*)\$(?P<dollar>.*?)(?:\$\3\$|\Z))
      | ={_SPACES}(?P<bare>[^\s'",;&)}}]+)
    )|://[^\s/:@]{{0,200}}:(?P<uri>[^\s@]{{1,500}})@""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_TYPE = rf"(?:{'|'.join(sorted(TYPES))})\b"
# A mere column declaration such as `password text NOT NULL,` is not followed by a password.
_DECLARED_ONLY = (
    rf"\w{{0,60}}\s{{1,50}}{_TYPE}{_SPACES}(?:\([\d, ]{{1,20}}\))?(?:\s{{1,50}}NOT\s{{1,50}}NULL)?{_SPACES}[,)]"
)
_LIKE_PASSWORD = re.compile(
    rf"(?:pas[sw]|psw|pwd|secret|credential|token|api_?key|identified)(?!{_DECLARED_ONLY})[\w$]*", re.IGNORECASE
)
# Matches a statement whose strings were replaced with ''. If a quote is missing, later quotes open a string where they
# should close one: 'a, 'hunter2'
_MISQUOTED = re.compile(r"(?:(?<![\w$])(?![bxnBXN]'')\w|[\w$]\w)(?:''|\"\")|(?:''|\"\")\w|\0")
_TABLE = re.compile(r"\s*(?:CREATE|ALTER)\s+(?:(?:TEMP|TEMPORARY|UNLOGGED)\s+)?TABLE\b", re.IGNORECASE)
_COLUMN = re.compile(rf"(?<![\w$.])([^\W\d]\w{{0,62}})\s{{1,50}}{_TYPE}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SqlLiterals:
    """The contents of a text, decoded as the server does, and in lower case except for passwords.

    `names` are all words outside strings and comments, quoted or not, including keywords, but not words that occur only
    in an executed string. `code` holds the strings that read like code, and `literals` all other strings. `columns` are
    the columns declared by CREATE TABLE or ALTER TABLE. `doubtful` are quoted names and words that may be secrets.
    """

    literals: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    passwords: set[str] = field(default_factory=set)
    code: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)


@lru_cache(maxsize=2)  # one migration may raise a million notices
def read_literals(sql: str, at: int = 0) -> SqlLiterals:
    """Parse a text, which need not be valid SQL; if it is very long, parse only a part that begins at offset `at`."""
    found = SqlLiterals()
    start = at if len(sql) > _MAX_CHARS else 0
    _read(sql[start : start + _MAX_CHARS], found, found.names, 0)
    return found


def without_strings(sql: str) -> str:
    """Return the text with every string and comment replaced by spaces, so that offsets stay the same."""
    return _QUOTED_OR_COMMENT.sub(
        lambda match: match[0] if match.lastgroup == "name" else " " * len(match[0]), sql[:_MAX_CHARS]
    )


def _read(code: str, found: SqlLiterals, names: set[str], depth: int) -> None:
    end, joined = 0, ""
    bare = []  # the text without comments and without the contents of quotes
    for match in _QUOTED_OR_COMMENT.finditer(code):
        gap, end = code[end : match.start()], match.end()
        kind = match.lastgroup or "comment"
        names.update(_words(gap))
        bare.append(gap)
        if kind == "comment":
            bare.append(" ")
            continue
        text = _DECODERS[kind](match[kind])
        quotes = '""' if kind == "name" else "''"
        named = " password " if kind != "body" and _LIKE_PASSWORD.search(text) else ""
        never_closed = "\0" if match.end(kind) == end else ""
        bare.append(quotes + (named and named + quotes) + never_closed)
        secret = _BEFORE_PASSWORD.search(code, max(match.start() - 40, 0), match.start())
        if secret:
            found.passwords.add(text)
        if kind == "name":
            joined = ""
            found.doubtful.add(text.lower())
            if not secret:
                names.add(text.lower())
            continue
        # A string literal may continue on the next line: 'hun' followed by 'ter2' on the next line.
        joined = joined + text if joined and "\n" in gap and not gap.strip() else text
        for string in {text, joined}:
            _add_string(string, found, names if kind == "body" else None, depth)
    names.update(_words(code[end:]))
    bare.append(code[end:])
    for statement in "".join(bare).split(";"):
        _read_bare(statement, found)


def _read_bare(statement: str, found: SqlLiterals) -> None:
    if _MISQUOTED.search(statement):
        found.doubtful.update(_words(statement))
    elif password := _LIKE_PASSWORD.search(statement):
        found.doubtful.update(_words(statement[password.end() :]))
    if _TABLE.match(statement):
        found.columns.update(map(str.lower, _COLUMN.findall(statement)))


def _words(text: str) -> set[str]:
    return set(map(str.lower, _WORD.findall(text)))


def _add_string(string: str, found: SqlLiterals, names: set[str] | None, depth: int) -> None:
    found.passwords.update(passwords_in(string))
    if depth == _MAX_DEPTH or not _is_code(string):
        found.literals.update({string.lower()} - {""})
        return
    _read(string, found, set() if names is None else names, depth + 1)
    found.code.add(string.lower())
    if names is None:  # it may be a passphrase such as `select horse`
        found.doubtful.update(_words(string) - KEYWORDS)


def _is_code(string: str) -> bool:
    pos = 0
    while gap := _GAP.match(string, pos):
        pos = gap.end()
    return bool(_CODE.match(string, pos))


def passwords_in(text: str) -> set[str]:
    """Return the passwords in a text: values after the word `password`, quoted or not, and passwords in URIs."""
    found = set()
    for match in _PASSWORD_IN_TEXT.finditer(text):
        value = next(
            value for value in match.group("single", "double", "dollar", "bare", "uri", 0) if value is not None
        )
        found |= {value, value.replace("''", "'")} - {"", match[0]}
    return found


def _unescape(body: str) -> str:
    return _ESCAPE.sub(_escaped, body)


def _escaped(match: re.Match[str]) -> str:
    short, long, hexadecimal, octal, sign = match.groups()
    code = int(short or long or hexadecimal or "0", 16) or int(octal or "0", 8)
    if code:
        return chr(code) if code < 0x110000 else ""
    return _CONTROLS.get(sign, sign) if sign else "'"


def _unescape_unicode(body: str) -> str:
    return _UNICODE.sub(
        lambda match: chr(min(int(match[1] or match[2], 16), 0x10FFFF)) if match[1] or match[2] else match[0][0], body
    )


_DECODERS: dict[str, Callable[[str], str]] = {
    "escaped": _unescape,
    "unicode": _unescape_unicode,
    "plain": lambda body: body.replace("''", "'"),
    "name": lambda body: body.replace('""', '"'),
    "body": str,
}
