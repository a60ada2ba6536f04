"""Accept the transaction control that users write into migrations, and reject what the runner cannot honour.

A transactional migration may be wrapped in one BEGIN ... COMMIT, and may begin with SET TRANSACTION. These statements
are blanked, because the runner's own transaction takes their place and uses their isolation level. In a
no-transaction migration, balanced BEGIN ... COMMIT blocks are sent unchanged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from predeploy.migrations.sections import spaces
from predeploy.sql.splitter import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.migrations.chunks import Chunk
    from predeploy.sql.splitter import Statement

# A single lookup handles most statements, because a file may contain a million of them.
_FIRST_WORDS = frozenset((word,) for word in ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE", "SET"))
_LEVEL = r"ISOLATION LEVEL (SERIALIZABLE|REPEATABLE READ|READ COMMITTED|READ UNCOMMITTED)"
_MODES = rf"(?: {_LEVEL}| READ ONLY| READ WRITE|(?: NOT)? DEFERRABLE)*"
_KNOWN = {
    "BEGIN": rf"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION){_MODES}",
    "SET": rf"SET(?: LOCAL| SESSION)? TRANSACTION{_MODES}",
    "COMMIT": r"(?:COMMIT|END)(?: WORK| TRANSACTION)?(?: AND NO CHAIN)?",
}
_ONE = "each migration runs in one transaction"
_NEVER = {
    "COMMIT AND CHAIN": f"{_ONE}; split the file",
    "END AND CHAIN": f"{_ONE}; split the file",
    "ROLLBACK": f"{_ONE}, which is rolled back if a statement fails; remove it or split the file",
    "ABORT": f"{_ONE}, which is rolled back if a statement fails; remove it or split the file",
    "PREPARE TRANSACTION": f"{_ONE}, which also records it as applied; remove it",
}
_NOTHING_AFTER = f"{_ONE}, so no statement may follow; split the file"
_BLOCK = "a no-transaction migration must commit each block that it begins"


class Problem(NamedTuple):
    """The reason why a migration is rejected, and its line in the file, from 1."""

    line: int
    message: str


class _Control(NamedTuple):
    """A statement that begins or ends a transaction or sets its mode; `keyword` names it in messages.

    `kind` is BEGIN, COMMIT or SET, or "" if the statement is never allowed.
    """

    kind: str
    keyword: str
    line: int = 0


def control_of(words: Sequence[str]) -> _Control | None:
    """Return what a statement does to its transaction, given its first words in upper case; None if nothing."""
    match tuple(words):
        case ("COMMIT" | "ROLLBACK", "PREPARED", *_):
            return None
        case ("ROLLBACK", "TO", *_) | ("ROLLBACK", "WORK" | "TRANSACTION", "TO", *_):
            return None
        case ("BEGIN", *_):
            return _Control("BEGIN", "BEGIN")
        case ("START", "TRANSACTION", *_):
            return _Control("BEGIN", "START TRANSACTION")
        case ("SET", "TRANSACTION", *_) | ("SET", "LOCAL" | "SESSION", "TRANSACTION", *_):
            return _Control("SET", "SET TRANSACTION")
        case ("COMMIT" | "END" as keyword, *rest) if "CHAIN" in rest and "NO" not in rest:
            return _Control("", f"{keyword} AND CHAIN")
        case ("COMMIT" | "END" as keyword, *_):
            return _Control("COMMIT", keyword)
        case ("ROLLBACK" | "ABORT" as keyword, *_):
            return _Control("", keyword)
        case ("PREPARE", "TRANSACTION", *_):
            return _Control("", "PREPARE TRANSACTION")
    return None


class TransactionReader:
    """Tracks transaction control across a migration's chunks.

    `problem` is the first reason found so far to reject the migration, or None.
    """

    def __init__(self, *, transactional: bool) -> None:
        self.problem: Problem | None = None
        self._transactional = transactional
        self._begun: _Control | None = None
        self._committed: _Control | None = None
        self._level = ""
        self._deferrable = False
        self._kept = 0  # statements in earlier chunks that are not blanked

    def read(self, chunk: Chunk) -> Chunk:
        """Return the chunk without the statements that the runner's own transaction replaces."""
        blanked: list[Statement] = []
        for number, statement in enumerate(chunk.scan.statements):
            if self._committed:
                self._reject(self._committed, _NOTHING_AFTER)
            if statement.words[:1] not in _FIRST_WORDS or not (control := control_of(statement.words)):
                continue
            control = control._replace(line=chunk.lines + statement.line)
            text = " ".join(tokens(chunk.text, statement)).replace(" ,", "").upper()
            is_leading = not self._kept and number == len(blanked)
            if not self._transactional:
                self._read_block(control)
            elif self._read_wrapper(control, text, is_leading=is_leading):
                blanked.append(statement)
        if chunk.last and self._begun and not self._committed and not chunk.scan.unterminated:
            keyword = self._begun.keyword
            without_it = f"add it, or remove {keyword}: {_ONE} anyway" if self._transactional else _BLOCK
            self._reject(self._begun, f"there is no matching COMMIT; {without_it}")
        return self._without(chunk, blanked)

    def _read_wrapper(self, control: _Control, text: str, *, is_leading: bool) -> bool:
        """Check transaction control in a transactional migration; return whether to blank the statement."""
        kind = control.kind
        is_known = bool(kind and re.fullmatch(_KNOWN[kind], text))
        if kind == "SET" and not (is_leading and is_known):
            return False  # the server decides
        if not kind:
            self._reject(control, _NEVER[control.keyword])
        elif kind == "COMMIT" and not self._begun:
            self._reject(control, f"there is no matching BEGIN, and {_ONE}; remove it or split the file")
        elif kind == "BEGIN" and self._begun:
            self._reject(control, f"{_ONE}, which begins only once; remove it or split the file")
        elif kind == "BEGIN" and not is_leading:
            self._reject(control, f"{_ONE}, so it must be the first statement; move it or split the file")
        elif not is_known:
            self._reject(control, "unsupported words follow it; remove them, or add a missing semicolon")
        elif "READ ONLY" in text:
            self._reject(control, f"{_ONE}, which also records it as applied; remove READ ONLY")
        elif kind == "COMMIT":
            self._committed = control
        else:
            self._begun = control if kind == "BEGIN" else self._begun
            *_, self._level = [self._level, *re.findall(_LEVEL, text)]
            *_, self._deferrable = [self._deferrable, *(not no for no in re.findall("(NOT )?DEFERRABLE", text))]
        return True

    def _read_block(self, control: _Control) -> None:
        """Check transaction control in a no-transaction migration, which may contain any number of blocks."""
        kind = control.kind
        if not kind:
            self._reject(control, f"{_BLOCK}; remove it, or write COMMIT and begin another block")
        elif kind == "BEGIN" and self._begun:
            self._reject(
                control, f"{_BLOCK}, and the block from line {self._begun.line} is still open; commit it first"
            )
        elif kind == "COMMIT" and not self._begun:
            self._reject(control, "there is no matching BEGIN, and each statement is committed on its own; remove it")
        elif kind != "SET":
            self._begun = control if kind == "BEGIN" else None

    def _reject(self, control: _Control, why: str) -> None:
        self.problem = self.problem or Problem(control.line, f"{control.keyword}: {why}")

    def _without(self, chunk: Chunk, blanked: Sequence[Statement]) -> Chunk:
        first, mode = self._kept, "" if self._kept else self._mode()
        rest = [statement for statement in chunk.scan.statements if statement not in blanked] if blanked else None
        self._kept += len(chunk.scan.statements) - len(blanked)
        if rest is not None:
            text = chunk.text
            for statement in blanked:
                text = text[: statement.start] + spaces(text[statement.start : statement.end]) + text[statement.end :]
            chunk = chunk._replace(text=text, scan=chunk.scan._replace(statements=rest))
        is_same = first == chunk.first and mode == chunk.transaction_mode
        return chunk if is_same else chunk._replace(first=first, transaction_mode=mode)

    def _mode(self) -> str:
        """Return what to write after BEGIN, or "" if the runner's own BEGIN has the same effect."""
        if self._level in {"", "READ COMMITTED"} and not self._deferrable:
            return ""
        return f"ISOLATION LEVEL {self._level or 'READ COMMITTED'}{' DEFERRABLE' if self._deferrable else ''}"
