"""Parse the directives in a file's leading comments."""

from __future__ import annotations

import re

_GAP = re.compile(r"\s++|--[^\r\n]*+|/\*.*?\*/", re.DOTALL)
_NO_TRANSACTION = re.compile(
    r"""(?:
        --[ ]*migrate:no-transaction
      | --[ ]*no-transaction                          # several runners
      | --[ ]*\+goose[ ]+NO[ ]+TRANSACTION            # goose
      | --[ ]*migrate:up\b[^\n]*\btransaction:[ ]*false # dbmate
      | ----[ ]*tern:[ ]*disable-tx[ ]*----           # tern
    )[ \t]*""",
    re.VERBOSE | re.IGNORECASE,
)

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
