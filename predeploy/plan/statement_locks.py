"""The locks that a statement takes, inferred from its text.

The modes follow the documentation: the chapter on explicit locking and the reference pages of the commands. Effects
that only the server knows (DO blocks, functions, triggers, CASCADE) are reported as unknown, never guessed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from predeploy.plan import utility_locks
from predeploy.plan.alter_table_locks import read_alter_relation, read_owned_by, read_references
from predeploy.plan.lock_modes import ImpliedLock, LockMode, StatementEffects
from predeploy.plan.query_locks import QUERY_STARTS, read_query, shape_of
from predeploy.plan.tokens import RELATION_KINDS, SCOPE_OF_TABLE_OBJECTS, TokenCursor, fold_identifier, is_identifier
from predeploy.sql.command_tag import only_sql_words
from predeploy.sql.splitter import split, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.plan.lock_modes import Scope
    from predeploy.sql.splitter import Statement

_SUE, _SRE, _AEL = LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE
_IMPLIED_BY_DROP_TABLE = (
    ImpliedLock("references", _AEL),
    ImpliedLock("partition_of", _AEL),
    ImpliedLock("default", _AEL),
)
_UNKNOWN = {"DO", "CALL", "EXECUTE", "IMPORT", "REASSIGN"}
_UNKNOWN_OBJECTS = {"EXTENSION", "OWNED", "STATISTICS"}
_OFTEN_REPEATED = {("INSERT",), ("UPDATE",), ("DELETE",)}
_CHANGE_SEARCH_PATH = {"SEARCH_PATH", "SCHEMA", "ROLE", "AUTHORIZATION"}


def read_statement(sql: str, statement: Statement) -> StatementEffects:
    """Return a statement's actions and the relations it locks, inferred from its text."""
    if statement.words[:1] in _OFTEN_REPEATED and (shape := shape_of(sql, statement)):
        effects = _read_shape(shape)
        if "set_config" not in effects.calls:  # it may set search_path, which is visible only in the literals
            return effects
    return _read(sql, statement)


@lru_cache(maxsize=256)
def _read_shape(shape: str) -> StatementEffects:
    return _read(shape, split(shape)[0])


def _read(sql: str, statement: Statement) -> StatementEffects:
    cursor, effects = TokenCursor(list(tokens(sql, statement))), StatementEffects()
    verb = cursor.word
    if verb in QUERY_STARTS:
        effects.actions.append(_query_action(cursor))
        read_query(cursor, effects)
        effects.changes_search_path = "set_config" in effects.calls and any(
            "search_path" in token.lower() for token in cursor.tokens
        )
    elif reader := _READERS.get(verb):
        cursor.pos += 1
        reader(cursor, effects)
    else:
        effects.unknown = verb in _UNKNOWN
    if ("U", "&") in pairwise(cursor.words):
        effects.unknown = True  # the escapes in U&"n\0061me" are not decoded
    effects.actions = [only_sql_words(action) for action in effects.actions or [verb]]
    return effects


def _query_action(cursor: TokenCursor) -> str:
    """Return the query's verb, after any WITH clause, or SELECT if the query only reads."""
    verb = cursor.word
    if verb == "WITH":
        ahead = cursor.rest()
        ahead.skip_past("INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "VALUES", "TABLE")
        verb = ahead.words[ahead.pos - 1]
    return verb if verb in {"INSERT", "UPDATE", "DELETE", "MERGE"} else "SELECT"


def _create(cursor: TokenCursor, effects: StatementEffects) -> None:
    kind = cursor.object_kind()
    effects.actions.append(f"CREATE {kind}")
    if reader := _CREATE_READERS.get(kind):
        reader(cursor, effects)
    elif kind in {"FUNCTION", "PROCEDURE", "AGGREGATE"}:
        effects.creates_routine = "".join(cursor.qualified_name()[-1:])
    else:
        effects.unknown = kind in _UNKNOWN_OBJECTS


def _create_table(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.accept("IF", "NOT", "EXISTS")
    cursor.qualified_name()
    read_references(cursor, effects)
    for number, (previous, word) in enumerate(pairwise(cursor.words)):
        if word == "LIKE" and previous in {"(", ","}:
            effects.lock(cursor.rest(number + 2).qualified_name(), LockMode.ACCESS_SHARE)
    if cursor.accept("PARTITION", "OF"):
        implied = (ImpliedLock("default", _AEL), ImpliedLock("references", _SRE))
        effects.lock(cursor.qualified_name(), _AEL, implied=implied)
    cursor.skip_parentheses()
    if cursor.accept("INHERITS", "("):
        for name, _ in cursor.relations():
            effects.lock(name, _SUE)
    if _read_query_after_as(cursor, effects):
        effects.actions[-1] += " AS"


def _create_index(cursor: TokenCursor, effects: StatementEffects) -> None:
    concurrently = cursor.accept("CONCURRENTLY")
    effects.actions[-1] += " CONCURRENTLY" * concurrently
    cursor.skip_past("ON")
    only = cursor.accept("ONLY")
    effects.lock(cursor.qualified_name(), _SUE if concurrently else LockMode.SHARE, "only" if only else "partitions")
    _read_calls(cursor, effects)


def _create_view(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.accept("IF", "NOT", "EXISTS")
    name = cursor.qualified_name()
    if "REPLACE" in cursor.words[:3]:
        effects.lock(name, _AEL)
    _read_query_after_as(cursor, effects)
    if "MATERIALIZED" not in cursor.words[:3]:
        effects.calls.clear()  # creating a view does not run its query


def _read_query_after_as(cursor: TokenCursor, effects: StatementEffects) -> bool:
    if not cursor.skip_past("AS"):
        return False
    effects.unknown |= cursor.word == "EXECUTE"
    read_query(cursor.rest(), effects)
    return True


def _create_trigger(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.identifier()
    cursor.skip_past("ON")
    effects.lock(cursor.qualified_name(), _SRE, "partitions")
    if cursor.accept("FROM"):
        effects.lock(cursor.qualified_name(), LockMode.ACCESS_SHARE)


def _create_rule(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.skip_past("TO")
    effects.lock(cursor.qualified_name(), _AEL)


def _create_statistics(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.skip_past("FROM")
    effects.lock(cursor.qualified_name(), _SUE)


def _create_schema(cursor: TokenCursor, effects: StatementEffects) -> None:
    effects.unknown = "CREATE" in cursor.words[1:]  # objects created in the same statement


def _drop(cursor: TokenCursor, effects: StatementEffects) -> None:
    kind = cursor.object_kind()
    concurrently = kind == "INDEX" and cursor.accept("CONCURRENTLY")
    effects.actions.append(f"DROP {kind}{' CONCURRENTLY' * concurrently}")
    cursor.accept("IF", "EXISTS")
    cascade = cursor.words[-1] == "CASCADE"
    effects.unknown = cascade or kind in _UNKNOWN_OBJECTS
    mode = _SUE if concurrently else _AEL
    implied: tuple[ImpliedLock, ...] = (ImpliedLock("table", mode),) if kind == "INDEX" else ()
    if kind in {"TABLE", "FOREIGN TABLE"}:
        implied = (*_IMPLIED_BY_DROP_TABLE, *(ImpliedLock("referenced_by", _AEL),) * cascade)
    if kind in SCOPE_OF_TABLE_OBJECTS:
        _lock_its_table(cursor, effects, SCOPE_OF_TABLE_OBJECTS[kind])
    elif kind in RELATION_KINDS:
        for name, _ in cursor.relations():
            effects.lock(name, mode, "children" if cascade else "partitions", implied)


def _alter(cursor: TokenCursor, effects: StatementEffects) -> None:
    kind = cursor.object_kind()
    if kind in RELATION_KINDS:
        read_alter_relation(kind, cursor, effects)
        _read_calls(cursor, effects)
        return
    effects.actions.append(f"ALTER {kind}")
    if kind in SCOPE_OF_TABLE_OBJECTS:
        _lock_its_table(cursor, effects, SCOPE_OF_TABLE_OBJECTS[kind])
    elif kind == "PUBLICATION":
        utility_locks.read_publication(cursor, effects)
    elif kind in {"TYPE", "DOMAIN"}:  # columns of the type are checked or rewritten
        cursor.qualified_name()
        effects.unknown = cursor.word in {"ADD", "ALTER", "VALIDATE", "SET"} and not cursor.at("ADD", "VALUE")
    else:
        effects.unknown = kind in _UNKNOWN_OBJECTS


def _lock_its_table(cursor: TokenCursor, effects: StatementEffects, scope: Scope = "only") -> None:
    """Add the lock on the table of the trigger, rule or policy whose name comes next."""
    cursor.identifier()
    cursor.skip_past("ON")
    effects.lock(cursor.qualified_name(), _AEL, scope)


def _set(cursor: TokenCursor, effects: StatementEffects) -> None:
    cursor.accept_any("LOCAL", "SESSION")
    effects.changes_search_path = cursor.word.strip('"') in _CHANGE_SEARCH_PATH


def _read_calls(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Add every name followed by a parenthesis; names that are not functions do no harm."""
    for token, following in pairwise(cursor.tokens):
        if following == "(" and is_identifier(token):
            effects.calls.add(fold_identifier(token))


_CREATE_READERS: dict[str, Callable[[TokenCursor, StatementEffects], None]] = {
    "FOREIGN TABLE": _create_table,
    "INDEX": _create_index,
    "MATERIALIZED VIEW": _create_view,
    "POLICY": _lock_its_table,
    "PUBLICATION": utility_locks.read_publication,
    "RULE": _create_rule,
    "SCHEMA": _create_schema,
    "SEQUENCE": read_owned_by,
    "STATISTICS": _create_statistics,
    "TABLE": _create_table,
    "TRIGGER": _create_trigger,
    "VIEW": _create_view,
}
_READERS: dict[str, Callable[[TokenCursor, StatementEffects], None]] = {
    "ALTER": _alter,
    "ANALYSE": utility_locks.read_vacuum,
    "ANALYZE": utility_locks.read_vacuum,
    "CLUSTER": utility_locks.read_cluster,
    "COMMENT": utility_locks.read_comment,
    "COPY": utility_locks.read_copy,
    "CREATE": _create,
    "DECLARE": utility_locks.read_declare,
    "DROP": _drop,
    "EXPLAIN": utility_locks.read_explain,
    "GRANT": utility_locks.read_grant,
    "LOCK": utility_locks.read_lock,
    "REFRESH": utility_locks.read_refresh,
    "REINDEX": utility_locks.read_reindex,
    "REVOKE": utility_locks.read_grant,
    "SET": _set,
    "TRUNCATE": utility_locks.read_truncate,
    "VACUUM": utility_locks.read_vacuum,
}
