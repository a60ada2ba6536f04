"""What may be told of a server's message: its own words and the names of objects, nothing else that a file holds.

A message quotes what it complains of, and that may be a password, a row's value or the rest of the file: `syntax error
at or near "hunter2"`. What stands in quotes is shown only where the SQLSTATE says that it names an object. DETAIL,
CONTEXT and the query are never told.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from predeploy.sql.literals import passwords_in, read_literals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.errors import Diagnostic

    from predeploy.sql.literals import SqlLiterals

HOLE = "***"
MOST_CHARS = 2000
_MOST_READ = 1 << 16  # characters of a message; what is cut from the middle of a quote is a quote never closed
_LONGEST_NAME = 200  # a schema's and a table's: 63 bytes each, and the quotes
_SHORTEST_SECRET = 4  # a shorter literal would blacken half of every message

# Classes and codes whose quotes hold names: of objects that are missing, there already, in use, of the wrong kind, of
# violated constraints. Class 42 without syntax errors, bad names, and columns that do not exist: whoever writes
# PASSWORD = "hunter2" asks for a column.
_NAMING = ("00", "01", "0A", "23", "25", "26", "2B", "34", "3B", "3D", "3F", "42", "44", "55", "58P01")
_NEVER = ("42601", "42602", "42622", "42703")
_OBJECTS = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")
_RAISED = ("exec_stmt_raise", "exec_stmt_assert")  # the author's own words
_RAISE = re.compile(r"\b(?:raise|assert)\b(?:[^;']|'[^']*')*", re.IGNORECASE)

# Those of localised servers too.
_QUOTED = re.compile(
    r'"([^"]*)"|»([^«»]*)«|«([^«»]*)»|„([^„“”]*)[“”]|“([^“”]*)”|「([^「」]*)」|\u2018([^\u2018\u2019]*)\u2019'
)
_OPENING = re.compile(r"""["»«„“「\u2018]|(?<!\w)'""")
_CLOSING = '"»«“”」\u2019'
_PUNCTUATION = re.compile(r'[^"]* "[^\w\s\'"]{1,2}"')
_PARAMETER = re.compile(r'[^"»«]*(?:param[^"»« ]*|encoding) ["»«]\s?([\w.]+)\s?["»«]', re.IGNORECASE)
_COLUMN = re.compile(r"(?<=^column ).*(?= does not exist$)|\S+\.\S.*", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

# Words of the server's own: as a literal of the file ('value', 'type') they are no secret.
_SERVER_WORDS = frozenset(
    """
    access already array bigint boolean cannot cast character check column constraint could data database date default
    depend domain duplicate element exist exists expression failed field foreign from function have index input integer
    interval into invalid json jsonb length limit lock missing more must name named null number numeric object objects
    operator other output owner parameter permission policy query range record reference relation required role root
    rule schema sequence server session syntax table text that this time timestamp timezone transaction trigger type
    unique unknown user uuid value values varying view violates when with without zone
    """.split()  # noqa: SIM905
)


def disclose(diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return what may be told of a message that `sql`, in a statement that begins `at`, has brought about.

    That is one line or the lines of a RAISE, and at most some 2,000 characters.
    """
    return _disclose(diag.message_primary, diag, read_literals(sql, at), sql, naming=_is_naming(diag.sqlstate or ""))


def disclose_hint(diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return what may be told of its hint: what a server quotes there are names of what there is."""
    return _disclose(diag.message_hint, diag, read_literals(sql, at), sql, naming=True)


def disclose_name(name: str | None, diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return what may be told of one of the names of objects that come beside its message."""
    return _disclose(name, diag, read_literals(sql, at), sql, naming=True)


def disclose_words(text: str) -> str:
    """Return a text of our own or of a library, without what follows the word password in it, and cut."""
    return _cut(_CONTROLS.sub(" ", _mask(text[:_MOST_READ], passwords_in(text[:_MOST_READ]))), len(text))


def _is_naming(sqlstate: str) -> bool:
    return sqlstate.startswith(_NAMING) and sqlstate not in _NEVER


def _disclose(text: str | None, diag: Diagnostic, words: SqlLiterals, sql: str, *, naming: bool) -> str | None:
    if not text:
        return None
    shown = text[:_MOST_READ]
    if diag.source_function in _RAISED:
        shown = _without_literals_of_others(shown, sql)
    else:
        objects = {name for name in (getattr(diag, field) for field in _OBJECTS) if name}
        shown = _names_only(shown, objects, words) if naming else _without_quoted(shown, diag.sqlstate, words)
        known = {name.lower() for name in objects} | words.names | _SERVER_WORDS
        shown = _mask(shown, {text for text in words.literals if len(text) >= _SHORTEST_SECRET and text not in known})
    shown = _mask(shown, words.passwords | passwords_in(shown))
    return _cut(_CONTROLS.sub(" ", shown), len(text))


def _names_only(text: str, objects: set[str], words: SqlLiterals) -> str:
    """Keep the quoted names; from the first quote that holds none to the last quote is a hole."""
    pos = 0
    while match := _QUOTED.search(text, pos):
        name = (match[match.lastindex or 0]).strip()
        if _OPENING.search(text, pos, match.start()) or not (name in objects or _is_name(name, words)):
            break
        pos = match.end()
    return _with_hole(text, pos)


def _without_quoted(text: str, sqlstate: str | None, words: SqlLiterals) -> str:
    """Leave a hole from the first quote to the last: what is quoted may hold quotes of its own."""
    if sqlstate == "42703" and not _OPENING.search(text):  # column users.hunter2 does not exist
        return _COLUMN.sub(HOLE, text[:MOST_CHARS])
    if _PUNCTUATION.fullmatch(text):  # syntax error at or near ")"
        return text
    parameter = _PARAMETER.match(text)
    pos = parameter.end() if parameter and _is_name(parameter[1], words) else 0
    return _with_hole(text, pos)


def _with_hole(text: str, pos: int) -> str:
    """Cut out what stands between the first quote and the last, or to the end where none closes it."""
    opening = _OPENING.search(text, pos)
    if not opening:
        return text
    start = opening.end()
    end = max(text.rfind(quote, start) for quote in _CLOSING + ("'" if opening[0] == "'" else ""))
    return f"{text[:start]}{HOLE}{text[end:] if end >= 0 else ''}"


def _is_name(name: str, words: SqlLiterals) -> bool:
    """Tell whether the file uses it as a name, or has it nowhere in a string: then it is the catalog's."""
    small = name.lower()
    if not small or len(small) > _LONGEST_NAME or "\n" in small:
        return False
    return small in words.names or all(_is_no_literal(part, words) for part in small.split("."))


def _is_no_literal(small: str, words: SqlLiterals) -> bool:
    if small in words.names:
        return True
    if len(small) < _SHORTEST_SECRET:
        return small not in words.literals
    return not any(small in literal for literal in words.literals)


def _without_literals_of_others(text: str, sql: str) -> str:
    """Leave what RAISE says itself; a server's message that it passes on (SQLERRM) may quote other strings."""
    words = _outside_raise(sql)

    def keep(match: re.Match[str]) -> str:
        quoted = match[match.lastindex or 0].strip()
        return match[0] if _is_name(quoted, words) or len(quoted) < _SHORTEST_SECRET else f'"{HOLE}"'

    return _QUOTED.sub(keep, text)


@lru_cache(maxsize=2)
def _outside_raise(sql: str) -> SqlLiterals:
    return read_literals(_RAISE.sub("", sql))


def _mask(text: str, secrets: Iterable[str]) -> str:
    """Mask them in capitals and small letters, the longest first; a plain word only where it stands alone."""
    small = text.lower()
    found = sorted((secret for secret in secrets if secret.lower() in small), key=len, reverse=True)
    for secret in found:
        alone = secret.isalpha() or len(secret) < _SHORTEST_SECRET
        pattern = rf"(?<!\w){re.escape(secret)}(?!\w)" if alone else re.escape(secret)
        text = re.sub(pattern, HOLE, text, flags=re.IGNORECASE)
    return text


def _cut(text: str, length: int) -> str:
    if len(text) <= MOST_CHARS:
        return text
    return f"{text[:MOST_CHARS]}… ({max(length, len(text)) - MOST_CHARS} more characters)"
