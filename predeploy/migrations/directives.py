"""Parse the directives in a file's leading comments, and find comments that resemble directives."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from predeploy.migrations.chunks import Chunk

_GAP = re.compile(r"\s++|--[^\r\n]*+|/\*.*?\*/", re.DOTALL)
_NO_TRANSACTION = re.compile(
    r"""(?:
        --[ ]*migrate:no-transaction
      | (?P<bare>--!?[ ]*no-transaction)                # several runners
      | --[ ]*\+goose[ ]+NO[ ]+TRANSACTION              # goose
      | --[ ]*\+migrate[ ]+up[ ]+notransaction          # sql-migrate
      | --[ ]*migrate:up\b[^\n]*\btransaction:[ ]*false # dbmate
      | --[ ]*atlas:txmode[ ]+none                      # atlas
      | --[ ]*postgres-migrations[ ]+disable-transaction
      | ----[ ]*tern:[ ]*disable-tx[ ]*----             # tern
    )[ \t]*""",
    re.VERBOSE | re.IGNORECASE,
)
_NEARLY = r"""(?:--+|/\*+)[\s!*]*+(?:
        migrate:?[ ]*no[-_ ]?transactions?\b
      | (?:no[-_]?|disable[-_ ]?)transactions?(?=\s*(?:\Z|[^\w\s]))
      | \+?goose:?[ ]+(?:no|disable)[-_ ]*(?:transactions?|tx)\b
      | \+?migrate:?[ ]+(?:up[ ]+)?no[-_ ]*transactions?\b
      | migrate:[ ]*up\b[^\n]*\btransaction[ :=]+(?:false|no|off|none|0)\b
      | atlas:?[ ]*tx-?mode[ :=]+none\b
      | postgres-migrations:?[ ]+(?:no|disable)[-_ ]*transactions?\b
      | tern:?[ ]*disable-tx\b
    )"""
_WORDS = ("transaction", "txmode", "tx-mode", "disable-tx")  # every directive and near miss contains one of these
_FOLLOWED = "no other text may follow it"
_UNKNOWN = "write -- migrate:no-transaction"
_LATE = "it must come before the first statement"


class IgnoredDirective(NamedTuple):
    """A comment that was probably meant as a directive but is not read as one. Lines are counted from 1."""

    line: int
    reason: str


_REPEATABLE = re.compile(r"--[ ]*migrate:repeatable[ \t]*", re.IGNORECASE)


def is_transactional(sql: str) -> bool:
    """Return whether the text runs in a transaction; a `--` comment before the first statement can disable it."""
    return read_leading(sql)[0]


def read_leading(sql: str) -> tuple[bool, int]:
    """Return whether the leading comments leave the transaction enabled, and the offset where reading stopped."""
    position = 0
    while gap := _GAP.match(sql, position):
        if _NO_TRANSACTION.fullmatch(gap[0]):
            return False, position
        position = gap.end()
    return True, position


def is_repeatable(sql: str) -> bool:
    """Return whether a `--` comment before the first statement makes the migration repeatable."""
    if "migrate:repeatable" not in sql.lower():
        return False  # the usual case
    position = 0
    while gap := _GAP.match(sql, position):
        if _REPEATABLE.fullmatch(gap[0]):
            return True
        position = gap.end()
    return False


def find_ignored(chunks: Iterable[Chunk]) -> IgnoredDirective | None:
    """Return the first comment in a transactional migration that nearly disables its transaction, or None."""
    for chunk in chunks:
        for offset, reason in _ignored_in(chunk):
            return IgnoredDirective(chunk.place(offset)[0], reason)
    return None


def may_have_directive(text: str) -> bool:
    """Return whether a text contains a word of a directive; this takes much less time than scanning it."""
    small = text.lower()
    return any(word in small for word in _WORDS)


def _ignored_in(chunk: Chunk) -> Iterator[tuple[int, str]]:
    """Yield the offset of each comment that is nearly a directive, with the reason why it is not one."""
    text, position = chunk.text, 0
    while not chunk.lines and not chunk.column and (gap := _GAP.match(text, position)):
        if (start := _NO_TRANSACTION.match(gap[0])) and _is_followed(gap[0], start):
            yield position, _FOLLOWED
        elif re.match(_NEARLY, gap[0], re.VERBOSE | re.IGNORECASE):
            yield position, _UNKNOWN
        position = gap.end()
    for comment in chunk.scan.comments:
        if (
            comment >= position
            and (found := _NO_TRANSACTION.match(text, comment))
            and text[found.end() : found.end() + 1] in {"", "\r", "\n"}
        ):
            yield comment, _LATE


def _is_followed(comment: str, directive: re.Match[str]) -> bool:
    """Return whether text follows a complete directive, unless the text shows that the comment only mentions it."""
    rest = comment[len(directive[0].rstrip()) :]
    return not re.match(r"[\w-]|\s+\w" if directive["bare"] else r"[\w-]", rest)
