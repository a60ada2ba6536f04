"""What a file says about itself in the comments that it begins with."""

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


def is_transactional(sql: str) -> bool:
    """Look for a directive among the `--` comments before the first statement; one in a block comment is off."""
    return read_leading(sql)[0]


def read_leading(sql: str) -> tuple[bool, int]:
    """Return whether no directive among the leading comments switches the transaction off, and where they end."""
    position = 0
    while gap := _GAP.match(sql, position):
        if _NO_TRANSACTION.fullmatch(gap[0]):
            return False, position
        position = gap.end()
    return True, position
