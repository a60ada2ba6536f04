"""A statement's effects on relations, inferred from its text: locks, their modes, and implied locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

QualifiedName = tuple[str, ...]  # spelled as in the catalog: (name,) or (schema, name); () if there is none
Scope = Literal["only", "partitions", "children"]  # `children` are all inheriting relations, including partitions


class LockMode(IntEnum):
    """The table-level lock modes, numbered as in the server; a higher number is treated as stronger."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def sql_name(self) -> str:
        """The name as written in SQL and in the documentation."""
        return self.name.replace("_", " ")


def lock_mode_of(pg_locks_mode: str) -> LockMode | None:
    """Convert a pg_locks mode such as `AccessExclusiveLock`; return None for predicate lock modes."""
    return next((m for m in LockMode if m.sql_name.title().replace(" ", "") + "Lock" == pg_locks_mode), None)


@dataclass(frozen=True, slots=True)
class ImpliedLock:
    """A lock on the relations that have this `relationship` to a locked relation in the catalog.

    Foreign keys: `references` and `referenced_by` (`name` restricts both to one constraint or column), and
    `cascades_to`, which is `referenced_by` restricted to ON DELETE actions that write. Partitions: `partition_of`, and
    `default`, the default partition of the relation or of its parent. Others: `indexes`, `table` (of an
    index), `reads` (the relations queried by a view or materialized view), `views` (the same, but only for views), and
    `truncated_with`.
    """

    relationship: str
    mode: LockMode
    name: str = ""


@dataclass(frozen=True, slots=True)
class RelationLock:
    """A lock on a relation named in a statement and on its descendants within `scope`, plus the implied locks."""

    name: QualifiedName
    mode: LockMode
    scope: Scope = "only"
    implied: tuple[ImpliedLock, ...] = ()


@dataclass(slots=True)
class StatementEffects:
    """The effects of one statement; `unknown` is set if the statement may do more than its text shows.

    `actions` describe the statement: `CREATE INDEX`, or `ALTER TABLE ... ADD COLUMN` for each part of an ALTER. `calls`
    are the names of functions that may be called; a function's effects are unknown unless it is built in.
    `creates_routine` is the name of the function or procedure that the statement creates. If `changes_search_path` is
    set, later unqualified names may resolve differently.
    """

    actions: list[str] = field(default_factory=list)
    locks: list[RelationLock] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    creates_routine: str = ""
    unknown: bool = False
    changes_search_path: bool = False

    def lock(
        self, name: QualifiedName, mode: LockMode, scope: Scope = "only", implied: tuple[ImpliedLock, ...] = ()
    ) -> None:
        """Add a lock on a relation."""
        self.locks.append(RelationLock(name, mode, scope, implied))
