"""Find the relations that a query reads and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from predeploy.plan.lock_modes import ImpliedLock, LockMode
from predeploy.plan.tokens import fold_identifier, is_identifier
from predeploy.sql.splitter import without_literals

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import Scope, StatementEffects
    from predeploy.plan.tokens import TokenCursor
    from predeploy.sql.splitter import Statement

QUERY_STARTS = ("SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "TABLE", "(")
_AFTER_FROM = {
    "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT", "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR",
    "RETURNING", "SELECT", "SET", "VALUES", "WHEN",
}  # fmt: skip
_FUNCTIONS_WITH_FROM = {"EXTRACT", "SUBSTRING", "TRIM", "OVERLAY"}
_IMPLIED_BY_READ = (ImpliedLock("views", LockMode.ACCESS_SHARE),)
_IMPLIED_BY_WRITE = {
    "INSERT": (ImpliedLock("references", LockMode.ROW_SHARE),),
    "MERGE": (ImpliedLock("references", LockMode.ROW_SHARE),),
    "UPDATE": (),
    "DELETE": (ImpliedLock("referenced_by", LockMode.ROW_SHARE), ImpliedLock("cascades_to", LockMode.ROW_EXCLUSIVE)),
}
_RUNS_A_QUERY = {"QUERY_TO_XML", "CURSOR_TO_XML", "QUERY_TO_XML_AND_XMLSCHEMA", "TS_STAT", "TS_REWRITE", "LOWRITE"}
_ROWS_BUT_THE_LAST = re.compile(r"\bVALUES\s*(?:\([^()]*\)\s*,\s*)+", re.IGNORECASE)


def shape_of(sql: str, statement: Statement) -> str | None:
    """Return a shorter query with the same locks, or None if the statement must be fully parsed.

    A file may insert a million rows, and without literals most of its statements are identical.
    """
    text = without_literals(sql, statement)
    return text and _ROWS_BUT_THE_LAST.sub("VALUES ", text)


def read_query(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Add the locks and calls of the query that extends from the cursor to the end of the statement.

    The modes are ACCESS SHARE for reads, ROW SHARE for row locks, and ROW EXCLUSIVE for writes.
    """
    _QueryReader(cursor, effects).read()


@dataclass(slots=True)
class _Block:
    """The state of an open parenthesis, which may contain a query."""

    in_from: bool = False
    of_function_with_from: bool = False
    reads: list[int] = field(default_factory=list)  # indexes into the statement's locks


class _QueryReader:
    def __init__(self, cursor: TokenCursor, effects: StatementEffects) -> None:
        self._cursor = cursor
        self._effects = effects
        self._with_names = _names_of_with(cursor)  # not relations
        self._blocks = [_Block()]

    def read(self) -> None:
        cursor = self._cursor
        first = cursor.pos
        while word := cursor.word:
            previous = cursor.words[cursor.pos - 1] if cursor.pos > first else ""
            cursor.pos += 1
            if word == "(":
                self._open(previous)
            elif word == ")" and len(self._blocks) > 1:
                self._blocks.pop()
            else:
                self._read_word(word, previous)

    def _open(self, previous: str) -> None:
        cursor, effects = self._cursor, self._effects
        # In FROM (a JOIN b ON ...), a is handled here, and b when its JOIN is reached.
        is_join = (
            self._blocks[-1].in_from and previous in {"FROM", "JOIN", ",", "("} and cursor.word not in QUERY_STARTS[:-1]
        )
        self._blocks.append(_Block(is_join, previous in _FUNCTIONS_WITH_FROM))
        if previous and is_identifier(previous):
            effects.calls.add(fold_identifier(cursor.tokens[cursor.pos - 2]))
            effects.unknown |= previous in _RUNS_A_QUERY
        if is_join:
            self._read_relation()

    def _read_word(self, word: str, previous: str) -> None:
        cursor, block, may_begin = self._cursor, self._blocks[-1], previous in {"", "(", ")", "AS"}
        if word in _AFTER_FROM:
            block.in_from = False
        if word in {"INSERT", "MERGE"} and cursor.accept("INTO"):
            self._read_target(word)
        elif (word == "UPDATE" and may_begin) or (word == "DELETE" and cursor.accept("FROM")):
            self._read_target(word)
            block.in_from = word == "DELETE"
        elif word == "FROM" and previous != "DISTINCT" and not block.of_function_with_from:
            block.in_from = True
            self._read_relation()
        elif (
            word in {"JOIN", "USING"}
            or (word == "," and block.in_from)
            or (word == "TABLE" and (may_begin or previous in {"UNION", "ALL", "EXCEPT", "INTERSECT"}))
        ):
            self._read_relation()
        elif word == "FOR" and cursor.accept_any("NO", "KEY", "UPDATE", "SHARE"):
            for number in block.reads:
                self._effects.locks[number] = replace(self._effects.locks[number], mode=LockMode.ROW_SHARE)

    def _read_target(self, verb: str) -> None:
        only = self._cursor.accept("ONLY")
        if name := self._cursor.qualified_name():
            # An INSERT locks only the partitions that receive rows, which depends on the values.
            scope: Scope = "only" if only or verb == "INSERT" else "children"
            self._effects.lock(name, LockMode.ROW_EXCLUSIVE, scope, _IMPLIED_BY_WRITE[verb])

    def _read_relation(self) -> None:
        cursor = self._cursor
        cursor.accept("LATERAL")
        only = cursor.accept("ONLY")
        if cursor.word in QUERY_STARTS:
            return  # a subquery, which `read` handles
        name = cursor.qualified_name()
        is_with_name = len(name) == 1 and name[0] in self._with_names
        if name and not is_with_name and cursor.word != "(":  # a function
            self._blocks[-1].reads.append(len(self._effects.locks))
            self._effects.lock(name, LockMode.ACCESS_SHARE, "only" if only else "children", _IMPLIED_BY_READ)


def _names_of_with(cursor: TokenCursor) -> set[str]:
    """Return every name in `name AS (` and `name (columns) AS (`, or an empty set if there is no WITH."""
    if "WITH" not in cursor.words:
        return set()
    found = set()
    for number, word in enumerate(cursor.words):
        following = [w for w in cursor.words[number + 1 : number + 4] if w not in {"NOT", "MATERIALIZED"}]
        if word != "AS" or not number or following[:1] != ["("]:
            continue
        at = number - 1
        if cursor.words[at] == ")":
            while at and cursor.words[at] != "(":
                at -= 1
            at -= 1
        if at >= 0 and is_identifier(cursor.tokens[at]):
            found.add(fold_identifier(cursor.tokens[at]))
    return found
