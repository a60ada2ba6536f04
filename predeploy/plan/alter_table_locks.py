"""The locks taken by each ALTER TABLE action, and by ALTER for other kinds of relations.

The modes follow the ALTER TABLE documentation and AlterTableGetLockLevel in tablecmds.c: ACCESS EXCLUSIVE unless listed
otherwise here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from predeploy.plan.lock_modes import ImpliedLock, LockMode

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import QualifiedName, Scope, StatementEffects
    from predeploy.plan.tokens import TokenCursor

_SUE, _SRE, _AEL = LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE
# The first words of an action, with its mode and scope; the first match wins.
_ACTIONS: list[tuple[tuple[str, ...], LockMode, Scope]] = [
    (("RENAME", "TO"), _AEL, "only"),
    (("RENAME", "CONSTRAINT"), _AEL, "children"),
    (("RENAME",), _AEL, "children"),
    (("SET", "SCHEMA"), _AEL, "only"),
    (("SET", "("), _SUE, "only"),
    (("RESET", "("), _SUE, "only"),
    (("SET", "WITHOUT", "CLUSTER"), _SUE, "only"),
    (("SET",), _AEL, "only"),
    (("CLUSTER", "ON"), _SUE, "only"),
    (("OWNER", "TO"), _AEL, "only"),
    (("ENABLE", "ROW"), _AEL, "only"),
    (("DISABLE", "ROW"), _AEL, "only"),
    (("ENABLE", "RULE"), _AEL, "only"),
    (("ENABLE", "ALWAYS", "RULE"), _AEL, "only"),
    (("ENABLE", "REPLICA", "RULE"), _AEL, "only"),
    (("DISABLE", "RULE"), _AEL, "only"),
    (("ENABLE", "ALWAYS", "TRIGGER"), _SRE, "partitions"),
    (("ENABLE", "REPLICA", "TRIGGER"), _SRE, "partitions"),
    (("ENABLE", "TRIGGER"), _SRE, "partitions"),
    (("DISABLE", "TRIGGER"), _SRE, "partitions"),
    (("FORCE",), _AEL, "only"),
    (("NO", "FORCE"), _AEL, "only"),
    (("REPLICA", "IDENTITY"), _AEL, "only"),
    (("DROP", "CONSTRAINT"), _AEL, "children"),
    (("DROP", "COLUMN"), _AEL, "children"),
    (("DROP",), _AEL, "children"),
]
_COLUMN_ACTIONS: list[tuple[tuple[str, ...], LockMode]] = [
    (("SET", "DATA", "TYPE"), _AEL),
    (("SET", "STATISTICS"), _SUE),
    (("SET", "("), _SUE),
    (("RESET", "("), _SUE),
    (("SET", "NOT", "NULL"), _AEL),
    (("DROP", "NOT", "NULL"), _AEL),
    (("SET", "DEFAULT"), _AEL),
    (("DROP", "DEFAULT"), _AEL),
    (("TYPE",), _AEL),
]
_CONSTRAINTS = ("CHECK", "UNIQUE", "PRIMARY", "EXCLUDE", "FOREIGN", "NOT")


class _Action(NamedTuple):
    label: str
    mode: LockMode = _AEL
    scope: Scope = "only"
    implied: tuple[ImpliedLock, ...] = ()


def read_alter_relation(kind: str, cursor: TokenCursor, effects: StatementEffects) -> None:
    """Parse the rest of an ALTER statement for this `kind` of relation."""
    command = f"ALTER {kind}"
    cursor.accept("IF", "EXISTS")
    only = cursor.accept("ONLY")
    if cursor.accept("ALL", "IN", "TABLESPACE"):
        effects.actions.append(command)
        effects.unknown = True
        return
    name = cursor.qualified_name()
    cursor.accept("*")
    if kind == "INDEX":
        _read_index_action(cursor, effects, name)
    elif kind == "SEQUENCE":
        _read_sequence_action(cursor, effects, name)
    else:
        for part in cursor.split_at_commas():
            action = _read_action(part, effects)
            effects.actions.append(f"{command} ... {action.label}" if action.label else command)
            mode = _AEL if kind == "VIEW" else action.mode
            effects.lock(name, mode, "only" if only else action.scope, action.implied)


def _read_index_action(cursor: TokenCursor, effects: StatementEffects, name: QualifiedName) -> None:
    weak = cursor.word in {"RENAME", "ALTER", "RESET"} or cursor.at("SET", "(")
    effects.actions.append(f"ALTER INDEX ... {_next_two_words(cursor)}".removesuffix(" ("))
    effects.lock(name, _SUE if weak else _AEL)
    effects.unknown = cursor.at("ATTACH", "PARTITION")


def _read_sequence_action(cursor: TokenCursor, effects: StatementEffects, name: QualifiedName) -> None:
    strong = cursor.word in {"OWNER", "RENAME"} or cursor.at("SET", "SCHEMA")
    effects.actions.append("ALTER SEQUENCE")
    effects.lock(name, _AEL if strong else _SRE)
    read_owned_by(cursor, effects)


def _read_action(cursor: TokenCursor, effects: StatementEffects) -> _Action:
    """Parse one ALTER TABLE action and return it; add the locks on other tables that the action names."""
    if cursor.accept("ADD"):
        return _read_add(cursor, effects)
    if cursor.accept("ALTER"):
        return _read_alter_column(cursor)
    if cursor.accept("VALIDATE", "CONSTRAINT"):
        implied = ImpliedLock("references", LockMode.ROW_SHARE, cursor.identifier())
        return _Action("VALIDATE CONSTRAINT", _SUE, "children", (implied,))
    if cursor.accept_any("ATTACH", "DETACH") and cursor.accept("PARTITION"):
        return _read_partition(cursor, effects)
    if cursor.accept("INHERIT"):
        effects.lock(cursor.qualified_name(), _SUE)
        return _Action("INHERIT")
    if cursor.accept("NO", "INHERIT"):
        effects.lock(cursor.qualified_name(), LockMode.ACCESS_SHARE)
        return _Action("NO INHERIT")
    return _read_listed_action(cursor, effects)


def _read_listed_action(cursor: TokenCursor, effects: StatementEffects) -> _Action:
    for words, mode, scope in _ACTIONS:
        if cursor.accept(*words):
            label = " ".join(words).removesuffix(" (")
            if words in {("RENAME",), ("DROP",)}:
                label += " COLUMN"
            elif words == ("SET",):
                label += f" {cursor.word}"
            return _Action(label, mode, scope, _implied_by_drop(cursor, effects) if words[0] == "DROP" else ())
    effects.unknown = True
    return _Action(cursor.word, scope="children")


def _implied_by_drop(cursor: TokenCursor, effects: StatementEffects) -> tuple[ImpliedLock, ...]:
    """Return the locks needed to drop foreign key triggers along with a column or constraint."""
    cursor.accept("IF", "EXISTS")
    implied = ImpliedLock("references", _AEL, cursor.identifier())
    if cursor.words[-1] != "CASCADE":
        return (implied,)
    effects.unknown = True
    return (implied, ImpliedLock("referenced_by", _AEL))


def _read_add(cursor: TokenCursor, effects: StatementEffects) -> _Action:
    named = cursor.accept("CONSTRAINT")
    if named:
        cursor.identifier()
    word = cursor.word
    read_references(cursor, effects)
    if not named and word not in _CONSTRAINTS:
        return _Action("ADD COLUMN", scope="children")
    if word == "FOREIGN":
        return _Action("ADD FOREIGN KEY", _SRE, "partitions")
    label = {"PRIMARY": "PRIMARY KEY", "NOT": "NOT NULL"}.get(word, word)
    # For an index, servers before 18 lock the partitions only in SHARE mode; assume the stronger mode.
    return _Action(f"ADD {label}", scope="children" if word in {"CHECK", "NOT"} else "partitions")


def _read_alter_column(cursor: TokenCursor) -> _Action:
    if cursor.accept("CONSTRAINT"):
        return _Action("ALTER CONSTRAINT", scope="partitions")
    cursor.accept("COLUMN")
    column = cursor.identifier()
    for words, mode in _COLUMN_ACTIONS:
        if cursor.accept(*words):
            if words[-1] == "TYPE":
                implied = (ImpliedLock("references", _AEL, column), ImpliedLock("referenced_by", _AEL, column))
                return _Action("ALTER COLUMN ... TYPE", mode, "children", implied)
            return _Action(f"ALTER COLUMN ... {' '.join(words)}".removesuffix(" ("), mode, "children")
    return _Action(f"ALTER COLUMN ... {_next_two_words(cursor)}", scope="children")


def _read_partition(cursor: TokenCursor, effects: StatementEffects) -> _Action:
    partition = cursor.qualified_name()
    concurrently = cursor.word in {"CONCURRENTLY", "FINALIZE"}
    default = ImpliedLock("default", _AEL)
    effects.lock(partition, _SUE if concurrently else _AEL, "children", (default,))
    if cursor.words[0] == "ATTACH":
        return _Action("ATTACH PARTITION", _SUE, implied=(default, ImpliedLock("references", _SRE)))
    if concurrently:
        return _Action("DETACH PARTITION CONCURRENTLY", _SUE)
    return _Action("DETACH PARTITION", implied=(default,))


def _next_two_words(cursor: TokenCursor) -> str:
    return " ".join(cursor.words[cursor.pos : cursor.pos + 2])


def read_references(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Add locks on the tables that foreign keys in the remaining tokens reference, even inside parentheses."""
    for number in range(cursor.pos, len(cursor.words)):
        if cursor.words[number] == "REFERENCES":
            other = cursor.rest(number + 1)
            other.accept("ONLY")
            effects.lock(other.qualified_name(), _SRE, "partitions")


def read_owned_by(cursor: TokenCursor, effects: StatementEffects) -> None:
    """Add the lock on the table of a sequence's OWNED BY column."""
    if cursor.skip_past("OWNED") and cursor.accept("BY"):
        effects.lock(cursor.table_of_column(), LockMode.ACCESS_SHARE)
