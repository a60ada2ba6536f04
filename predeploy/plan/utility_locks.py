"""The locks of maintenance commands, and of other commands that are not queries, CREATE, ALTER or DROP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.plan.lock_modes import ImpliedLock, LockMode
from predeploy.plan.query_locks import read_query
from predeploy.plan.tokens import RELATION_KINDS, SCOPE_OF_TABLE_OBJECTS

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import StatementEffects
    from predeploy.plan.tokens import TokenCursor

_SUE, _AEL = LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE


def read_truncate(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse TRUNCATE; CASCADE adds all tables that reference the named tables."""
    implied = (ImpliedLock("truncated_with", _AEL),) if "CASCADE" in cursor.words else ()
    for name, scope in cursor.relations():
        effects.lock(name, _AEL, scope, implied)


def read_lock(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse LOCK TABLE."""
    effects.actions.append("LOCK TABLE")
    text = " ".join(cursor.words)
    mode = next((mode for mode in reversed(LockMode) if f"IN {mode.sql_name} MODE" in text), _AEL)
    for name, scope in cursor.relations():
        effects.lock(name, mode, scope)


def read_vacuum(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse VACUUM or ANALYZE; without a table name, the command processes the whole database."""
    end = cursor.words.index(")") if cursor.word == "(" and ")" in cursor.words else cursor.pos
    full = "FULL" in cursor.words[: end + 1]
    effects.actions.append("VACUUM FULL" if full else cursor.words[0])
    cursor.skip_parentheses()
    cursor.accept_any("FULL", "FREEZE", "VERBOSE", "ANALYZE")
    for name, _ in cursor.relations():
        effects.lock(name, _AEL if full else _SUE, "partitions")
    effects.unknown = not effects.locks


def read_reindex(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse REINDEX, which blocks writes to the table and reads that use the index, unless CONCURRENTLY is given."""
    cursor.skip_parentheses()
    kind = cursor.object_kind()
    concurrently = "CONCURRENTLY" in cursor.words  # may also be inside the parentheses before the kind
    cursor.accept("CONCURRENTLY")
    effects.actions.append(f"REINDEX {kind}{' CONCURRENTLY' * concurrently}")
    on_table, on_index = (_SUE, _SUE) if concurrently else (LockMode.SHARE, _AEL)
    if kind == "TABLE":
        effects.lock(cursor.qualified_name(), on_table, "partitions", (ImpliedLock("indexes", on_index),))
    elif kind == "INDEX":
        effects.lock(cursor.qualified_name(), on_index, "partitions", (ImpliedLock("table", on_table),))
    else:
        effects.unknown = True


def read_cluster(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse CLUSTER; without a table name, the command processes the whole database."""
    cursor.skip_parentheses()
    cursor.accept("VERBOSE")
    name = cursor.qualified_name()
    effects.lock(name, _AEL, "partitions")
    effects.unknown = not name


def read_refresh(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse REFRESH MATERIALIZED VIEW."""
    effects.actions.append("REFRESH MATERIALIZED VIEW")
    cursor.accept("MATERIALIZED", "VIEW")
    mode = LockMode.EXCLUSIVE if cursor.accept("CONCURRENTLY") else _AEL
    effects.lock(cursor.qualified_name(), mode, implied=(ImpliedLock("reads", LockMode.ACCESS_SHARE),))


def read_comment(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse COMMENT ON."""
    effects.actions.append("COMMENT")
    cursor.skip_past("ON")
    if cursor.accept("COLUMN"):
        effects.lock(cursor.table_of_column(), _SUE)
    elif cursor.at("CONSTRAINT") or (kind := cursor.object_kind()) in SCOPE_OF_TABLE_OBJECTS:
        cursor.skip_past("ON")
        effects.lock(cursor.qualified_name(), LockMode.ACCESS_SHARE)
    elif kind in RELATION_KINDS:
        effects.lock(cursor.qualified_name(), _SUE)


def read_copy(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse COPY from or to a file on the server."""
    if cursor.word == "(":
        read_query(cursor.rest(), effects)
        return
    cursor.accept("BINARY")
    name = cursor.qualified_name()
    cursor.skip_parentheses()
    if cursor.word == "FROM":
        effects.lock(name, LockMode.ROW_EXCLUSIVE, "partitions", (ImpliedLock("references", LockMode.ROW_SHARE),))
    else:
        effects.lock(name, LockMode.ACCESS_SHARE)


def read_explain(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse EXPLAIN, which takes the same locks as the statement it explains."""
    effects.actions.append("EXPLAIN")
    cursor.skip_parentheses()
    cursor.accept_any("ANALYZE", "VERBOSE")
    if cursor.word in {"CREATE", "REFRESH", "EXECUTE", "DECLARE"}:
        effects.unknown = True
    else:
        read_query(cursor.rest(), effects)


def read_declare(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse DECLARE ... CURSOR FOR a query."""
    if cursor.skip_past("FOR"):
        read_query(cursor.rest(), effects)


def read_grant(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse GRANT or REVOKE, which lock the tables in Postgres 18 and newer."""
    if cursor.skip_past("ON"):
        for name, _ in cursor.relations():
            effects.lock(name, LockMode.ACCESS_SHARE)


def read_publication(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse the tables of CREATE or ALTER PUBLICATION."""
    if cursor.skip_past("TABLE"):
        for name, scope in cursor.relations():
            effects.lock(name, _SUE, scope)
