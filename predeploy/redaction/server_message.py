"""Redact server messages: keep the server's own wording and object names, but nothing else from a migration.

A message may quote the rejected text, such as a password, a row value or the rest of the file: `syntax error at or near
"hunter2"`. Quoted text is shown only if the SQLSTATE implies that it is the name of an object. DETAIL, CONTEXT and the
query are never logged.

A syntax error quotes a token. The token is shown if it is one or two symbols, or if it meets all of these conditions:
- It is an SQL keyword, a typo of a keyword (FORM, SELEC, TABEL), or a column declared by a CREATE TABLE or ALTER TABLE
  in the migration. Any other word may be an unquoted secret.
- It has at most 30 characters, all letters or underscores, and is in lower case, in upper case or capitalized.
- It occurs in the migration outside strings, comments and double quotes.
- It never occurs in double quotes, after a word like PASSWORD or SECRET in the same statement, or in a statement where
  a quote seems to be missing (a quote touches a word or is never closed).
- It does not occur as a word in any string of the migration. A keyword may occur within a longer string.

The server's own wording outside the quotes may contain the same words as strings in the migration: the string 'error'
must not mask `syntax error`. So before the first colon, a string is masked only if it is more than plain words. After
the colon, and in free text (messages from libraries and other languages), all strings are masked.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from predeploy.redaction.scrubber import MASK, MIN_SECRET_CHARS
from predeploy.sql.keywords import KEYWORDS
from predeploy.sql.literals import passwords_in, read_literals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.errors import Diagnostic

    from predeploy.sql.literals import SqlLiterals

MAX_CHARS = 2000
_MAX_READ_CHARS = 1 << 16  # of a message; a quote that this limit cuts off counts as unclosed
_MAX_NAME_CHARS = 200  # schema and table names of 63 bytes each, plus quotes

# SQLSTATEs and prefixes whose messages quote names: of violated constraints, and of objects that are missing,
# duplicate, in use or of the wrong kind. Exceptions in class 42 are syntax errors, invalid names and missing columns,
# because "hunter2" in PASSWORD = "hunter2" is a missing column.
_NAMING = ("00", "01", "0A", "23", "25", "26", "2B", "34", "3B", "3D", "3F", "42", "44", "55", "58P01")
_NEVER = ("42601", "42602", "42622", "42703")
_OBJECTS = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")
_RAISED = ("exec_stmt_raise", "exec_stmt_assert")  # written by the author of the migration
_RAISE = re.compile(r"\b(?:raise|assert)\b(?:[^;']|'[^']*')*", re.IGNORECASE)

# Matches quoted text in a server message, whatever its language.
_QUOTED = re.compile(
    r'"([^"]*)"|»([^«»]*)«|«([^«»]*)»|„([^„“”]*)[“”]|“([^“”]*)”|「([^「」]*)」|\u2018([^\u2018\u2019]*)\u2019'
)
_OPENING = re.compile(r"""["»«„“「\u2018]|(?<!\w)'""")
_CLOSING = '"»«“”」\u2019'
_SIGNS = re.compile(r"[^\w\s'\"]{1,2}")
_PLAIN_WORD = re.compile(r"[a-z_]{1,30}|[A-Z_]{1,30}|[A-Z][a-z_]{1,29}")
_PROSE = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*")
_COLON = re.compile("[:\uff1a]")
_PARAMETER = re.compile(r'[^"»«]*(?:param[^"»« ]*|encoding) ["»«]\s?([\w.]+)\s?["»«]', re.IGNORECASE)
_COLUMN = re.compile(r"(?<=^column ).*(?= does not exist$)|\S+\.\S.*", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

# SQLSTATE classes whose messages are free text: from libpq, functions in other languages, foreign data wrappers and
# internal errors.
_FREE_TEXT = ("08", "38", "39", "HV", "XX")


def redact_message(diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return the part of a message that may be logged, or None.

    The statement at offset `at` in `sql` caused the message. The result has at most about 2,000 characters, in a single
    line unless it is a RAISE message.
    """
    return _redact(diag.message_primary, diag, read_literals(sql, at), sql, naming=_is_naming(diag.sqlstate or ""))


def redact_hint(diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return the message's hint with possible secrets masked, or None; hints quote only names of existing objects."""
    return _redact(diag.message_hint, diag, read_literals(sql, at), sql, naming=True)


def redact_name(name: str | None, diag: Diagnostic, sql: str = "", at: int = 0) -> str | None:
    """Return an object name from a message if it may be logged, or None."""
    return _redact(name, diag, read_literals(sql, at), sql, naming=True, sentence=False)


def redact_text(text: str) -> str:
    """Return a message from pg-predeploy or a library, with passwords masked, and truncated if it is long."""
    return _cut(_CONTROLS.sub(" ", _mask(text[:_MAX_READ_CHARS], passwords_in(text[:_MAX_READ_CHARS]))), len(text))


def _is_naming(sqlstate: str) -> bool:
    return sqlstate.startswith(_NAMING) and sqlstate not in _NEVER


def _redact(
    text: str | None, diag: Diagnostic, words: SqlLiterals, sql: str, *, naming: bool, sentence: bool = True
) -> str | None:
    if not text:
        return None
    shown = text[:_MAX_READ_CHARS]
    secrets = set(words.passwords)
    if diag.source_function in _RAISED:
        shown, sentence = _without_literals_of_others(shown, sql), False
    else:
        objects = {name for name in (getattr(diag, field) for field in _OBJECTS) if name}
        shown = _names_only(shown, objects, words) if naming else _without_quoted(shown, diag.sqlstate, words)
        known = {name.lower() for name in objects} | words.names | KEYWORDS
        secrets |= {text for text in words.literals | words.code if len(text) >= MIN_SECRET_CHARS and text not in known}
        sentence = sentence and not (diag.sqlstate or "XX").startswith(_FREE_TEXT)
    own_words = {text for text in secrets if sentence and _may_be_the_servers(text, words)}
    shown = _mask(shown, (secrets - own_words) | passwords_in(shown))
    colon = _COLON.search(shown)
    end = colon.start() if colon else len(shown)
    shown = shown[:end] + _mask(shown[end:], own_words)
    return _cut(_CONTROLS.sub(" ", shown), len(text))


def _may_be_the_servers(secret: str, words: SqlLiterals) -> bool:
    """Return whether the server may have written this text itself: plain words that do not name an object."""
    small = secret.lower()
    return _PROSE.fullmatch(secret) is not None and (small in KEYWORDS or small not in words.names)


def _names_only(text: str, objects: set[str], words: SqlLiterals) -> str:
    """Keep quoted names up to the first quoted text that is not a name; mask from there to the last quote."""
    pos = 0
    while match := _QUOTED.search(text, pos):
        name = (match[match.lastindex or 0]).strip()
        if _OPENING.search(text, pos, match.start()) or not (name in objects or _is_name(name, words)):
            break
        pos = match.end()
    return _with_mask(text, pos)


def _without_quoted(text: str, sqlstate: str | None, words: SqlLiterals) -> str:
    """Mask everything from the first quote to the last, because the quoted text may itself contain quotes."""
    if sqlstate == "42703" and not _OPENING.search(text):  # column users.hunter2 does not exist
        return _COLUMN.sub(MASK, text[:MAX_CHARS])
    if sqlstate == "42601" and (token := _only_quoted(text)) and (_SIGNS.fullmatch(token) or _is_sql(token, words)):
        return text
    if sqlstate == "42622" and _is_truncated_name(text, words):
        return text
    parameter = _PARAMETER.match(text)
    pos = parameter.end() if parameter and _is_name(parameter[1], words) else 0
    return _with_mask(text, pos)


def _is_truncated_name(text: str, words: SqlLiterals) -> bool:
    """Return whether the message quotes an unquoted name from the migration, followed by its truncated form."""
    quoted = [match[match.lastindex or 0].lower() for match in _QUOTED.finditer(text)]
    is_pair = len(quoted) == 2 and quoted[0].startswith(quoted[1])
    return is_pair and quoted[0] in words.names and quoted[0] not in words.doubtful


def _only_quoted(text: str) -> str:
    """Return the quoted text in a message if there is exactly one, or else ""."""
    quoted = _QUOTED.search(text)
    if not quoted or _OPENING.search(text, 0, quoted.start()) or _OPENING.search(text, quoted.end()):
        return ""
    return quoted[quoted.lastindex or 0].strip()


def _is_sql(token: str, words: SqlLiterals) -> bool:
    """Return whether the rules in the module docstring allow a syntax error's token to be shown."""
    small = token.lower()
    strings = words.literals | words.code | {password.lower() for password in words.passwords}
    if not _PLAIN_WORD.fullmatch(token) or small not in words.names or small in words.doubtful | strings:
        return False
    if small in KEYWORDS:
        return True
    known = small in words.columns or any(_is_one_slip_apart(small, keyword) for keyword in KEYWORDS)
    alone = re.compile(rf"(?<!\w){small}(?!\w)")
    return known and not any(alone.search(literal) for literal in words.literals)


def _is_one_slip_apart(word: str, keyword: str) -> bool:
    """Return whether one letter is missing, extra or wrong, or two adjacent letters are swapped."""
    length = min(len(word), len(keyword))
    if length < MIN_SECRET_CHARS:
        return False
    at = next((at for at in range(length) if word[at] != keyword[at]), length)
    left, right = word[at:], keyword[at:]
    exchanged = left[:2] == right[1::-1] and left[2:] == right[2:]
    return exchanged or left[1:] == right[1:] or left == right[1:] or left[1:] == right


def _with_mask(text: str, pos: int) -> str:
    """Mask everything from the first quote after `pos` to the last quote, or to the end if the quote is not closed."""
    opening = _OPENING.search(text, pos)
    if not opening:
        return text
    start = opening.end()
    end = max(text.rfind(quote, start) for quote in _CLOSING + ("'" if opening[0] == "'" else ""))
    return f"{text[:start]}{MASK}{text[end:] if end >= 0 else ''}"


def _is_name(name: str, words: SqlLiterals) -> bool:
    """Return whether `name` is a name in the migration, or occurs in none of its strings (a name from the catalog)."""
    small = name.lower()
    if not small or len(small) > _MAX_NAME_CHARS or "\n" in small or small in words.code:
        return False
    return small in words.names or all(_is_no_literal(part, words) for part in small.split("."))


def _is_no_literal(small: str, words: SqlLiterals) -> bool:
    if small in words.names:
        return True
    if len(small) < MIN_SECRET_CHARS:
        return small not in words.literals
    return not any(small in literal for literal in words.literals)


def _without_literals_of_others(text: str, sql: str) -> str:
    """Keep the text of a RAISE message, but mask strings that an embedded server message (SQLERRM) quotes."""
    words = _outside_raise(sql)

    def keep(match: re.Match[str]) -> str:
        quoted = match[match.lastindex or 0].strip()
        return match[0] if _is_name(quoted, words) or len(quoted) < MIN_SECRET_CHARS else f'"{MASK}"'

    return _QUOTED.sub(keep, text)


@lru_cache(maxsize=2)
def _outside_raise(sql: str) -> SqlLiterals:
    return read_literals(_RAISE.sub("", sql))


def _mask(text: str, secrets: Iterable[str]) -> str:
    """Mask secrets, longest first, in any case; mask short or purely alphabetic secrets only as whole words."""
    small = text.lower()
    found = sorted((secret for secret in secrets if secret.lower() in small), key=len, reverse=True)
    for secret in found:
        alone = secret.isalpha() or len(secret) < MIN_SECRET_CHARS
        pattern = rf"(?<!\w){re.escape(secret)}(?!\w)" if alone else re.escape(secret)
        text = re.sub(pattern, MASK, text, flags=re.IGNORECASE)
    return text


def _cut(text: str, length: int) -> str:
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]}… ({max(length, len(text)) - MAX_CHARS} more characters)"
