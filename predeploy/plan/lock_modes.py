"""What a statement does to relations, as far as its text tells: which it locks, how strongly, what goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

Name = tuple[str, ...]  # as the catalog spells it, after the schema's where that is given


class Mode(IntEnum):
    """The table-level locks, by the server's own numbers; the greater is taken for the stronger."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def words(self) -> str:
        """The name as SQL and the documentation write it."""
        return self.name.replace("_", " ")


def mode_of(pg_locks: str) -> Mode | None:
    """Return the mode that pg_locks calls `AccessExclusiveLock`; None for those of predicate locks."""
    return next((m for m in Mode if m.words.title().replace(" ", "") + "Lock" == pg_locks), None)


@dataclass(frozen=True, slots=True)
class Also:
    """What is locked with a relation: its neighbours along an `edge` of the catalog.

    Edges: `references` and `referenced_by` (foreign keys; `name` limits them to a constraint or a column) and
    `cascades_to` (the latter with an ON DELETE that writes), `partition_of`, `default` (the default partition beside
    it or in it), `indexes`, `table` (of an index), `reads` (what a view or a materialized view is made
    of), `views` (the same, of views only), `truncated_with`.
    """

    edge: str
    mode: Mode
    name: str = ""


@dataclass(frozen=True, slots=True)
class Touch:
    """A relation that a statement names, and the lock it takes on it.

    `reach`: "" for it alone, "partitions", or "children" for those that inherit from it, too.
    """

    name: Name
    mode: Mode
    reach: str = ""
    also: tuple[Also, ...] = ()


@dataclass(slots=True)
class Reading:
    """What one statement is and does; `unknown` when it may do what its text does not tell.

    `calls` are the names of what looks like functions: what those do is not told either, unless they are built in.
    `makes` is that of the one it makes. `new_path`: from here on unqualified names may mean something else.
    """

    kinds: list[str] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    makes: str = ""
    unknown: bool = False
    new_path: bool = False
