"""The effects of a statement on relations, as far as its text shows: locks, their modes, and implied locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

QualifiedName = tuple[str, ...]  # as the catalog spells it: (name,) or (schema, name); () for none
Scope = Literal["only", "partitions", "children"]  # `children` are all relations that inherit, so partitions too


class LockMode(IntEnum):
    """The table-level lock modes with the numbers of the server; a greater number counts as stronger."""

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
        """The name as SQL and the documentation write it."""
        return self.name.replace("_", " ")


def lock_mode_of(pg_locks_mode: str) -> LockMode | None:
    """Return the mode that pg_locks calls `AccessExclusiveLock`; None for the modes of predicate locks."""
    return next((m for m in LockMode if m.sql_name.title().replace(" ", "") + "Lock" == pg_locks_mode), None)


@dataclass(frozen=True, slots=True)
class ImpliedLock:
    """A lock on the relations that the catalog relates to a locked relation by `relationship`.

    Foreign keys: `references` and `referenced_by` (`name` limits them to one constraint or column), and `cascades_to`,
    which is `referenced_by` with an ON DELETE that writes. Partitions: `partition_of`, and `default`, the default
    partition next to the relation or in it. Others: `indexes`, `table` (of an index), `reads` (the relations of a
    view's or materialized view's query), `views` (the same for views only), `truncated_with`.
    """

    relationship: str
    mode: LockMode
    name: str = ""


@dataclass(frozen=True, slots=True)
class RelationLock:
    """A lock on a relation that a statement names, on those below it in `scope`, and those that it implies."""

    name: QualifiedName
    mode: LockMode
    scope: Scope = "only"
    implied: tuple[ImpliedLock, ...] = ()


@dataclass(slots=True)
class StatementEffects:
    """What one statement does; `unknown` if it may do more than its text shows.

    `actions` name what it does: `CREATE INDEX`, or `ALTER TABLE ... ADD COLUMN` for each part of an ALTER. `calls` are
    the names of possible functions: the effects of a function are unknown, unless it is built in. `creates_routine`
    is the name of the one that it creates. If it `changes_search_path`, later unqualified names may differ.
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
