"""What would run and what it would lock, told without running or changing anything."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predeploy.apply.failure import Failure, tell_failure
from predeploy.apply.migrations_table import read_rows
from predeploy.migrations.chunks import pieces_of
from predeploy.migrations.large_file import Unreadable
from predeploy.migrations.reading import find_refusal
from predeploy.plan.catalog import read_catalog
from predeploy.plan.lock_modes import Mode
from predeploy.plan.statement_locks import read_statement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from predeploy.connection.connect import Connection
    from predeploy.migrations.directory import Migration, MigrationFiles, MigrationResult
    from predeploy.plan.catalog import Catalog, Relation
    from predeploy.plan.lock_modes import Also, Reading, Touch

log = logging.getLogger(__name__)

_MOST_NAMES = 8


@dataclass(slots=True)
class FilePlan:
    """One pending file: its statements by kind, and the strongest lock that it takes on each existing relation.

    `unknown`: it has statements that do what their text does not tell. `refusal`: it would fail before it is sent.
    """

    migration: Migration
    statements: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    locks: dict[Relation, Mode] = field(default_factory=dict)
    unknown: bool = False
    refusal: Failure | None = None


def plan_migrations(conn: Connection, files: MigrationFiles) -> list[FilePlan]:
    """Return a plan of each file that is not applied, in their order."""
    rows = read_rows(conn) or {}
    catalog = read_catalog(conn)
    return [_plan_file(m, catalog) for m in files.migrations if m.name not in rows]


def tell_plan(conn: Connection, files: MigrationFiles, result: MigrationResult) -> tuple[str, dict[str, Any]]:
    """Log what would run, put files that would fail into `result`, and return the last line's message and fields."""
    plans = plan_migrations(conn, files)
    for plan in plans:
        if plan.refusal:
            tell_failure("Would fail", plan.migration, plan.refusal, result, files.migrations)
            continue
        fields = {
            "migration": plan.migration.name,
            "transactional": plan.migration.transactional,
            "statements": plan.statements,
            "kinds": dict(plan.kinds),
            "locks": as_fields(plan.locks),
            "unknown": plan.unknown,
        }
        log.info("%s", _sentence(plan), extra={"event": "migration.planned", **fields})
    return f"{len(plans)} pending, {len(result.errors)} would fail", {"pending": len(plans)}


def as_fields(locks: Mapping[Relation, Mode]) -> list[dict[str, str]]:
    """Return the locks as the log writes them, the strongest first."""
    ordered = sorted(locks.items(), key=lambda lock: (-lock[1], str(lock[0])))
    return [{"relation": str(relation), "mode": mode.words} for relation, mode in ordered]


def describe_locks(locks: Mapping[Relation, Mode]) -> str:
    """Return them as the end of a sentence, the strongest first; "" where there is none."""
    groups = []
    for mode in sorted(set(locks.values()), reverse=True):
        names = sorted(str(relation) for relation, held in locks.items() if held == mode)
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        groups.append(f"{mode.words} on {', '.join(names[:_MOST_NAMES])}{more}")
    return "; ".join(groups)


def worth_telling(locks: Mapping[Relation, Mode], relations: Mapping[int, Relation]) -> dict[Relation, Mode]:
    """Leave out indexes that are locked no harder than their table, and sequences that can still be used."""
    found = {}
    for relation, mode in locks.items():
        table = relations.get(relation.table or 0)
        enough = max(locks.get(table, Mode.ACCESS_SHARE) if table else Mode.ACCESS_SHARE, Mode.SHARE_UPDATE_EXCLUSIVE)
        if relation.is_shown or mode > enough:
            found[relation] = mode
    return found


def _sentence(plan: FilePlan) -> str:
    kinds = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in plan.kinds.items())
    how = "in a transaction" if plan.migration.transactional else "without a transaction"
    unknown = "; and what the text does not tell: rehearse to see" if plan.unknown else ""
    locks = describe_locks(plan.locks) or "locks nothing that is there now"
    return f"Would run {plan.migration.name} {how}: {kinds or 'no statement'}; {locks}{unknown}"


def _plan_file(migration: Migration, catalog: Catalog) -> FilePlan:
    plan = FilePlan(migration)
    locks: dict[Relation, Mode] = {}
    other_path = False
    try:
        for piece in filter(None, pieces_of(migration)):
            if refusal := find_refusal(migration, piece):
                return FilePlan(migration, refusal=refusal)
            plan.statements += len(piece.scan.statements)
            for statement in piece.scan.statements:
                reading = read_statement(piece.text, statement)
                catalog.routines.add(reading.makes)
                other_path = other_path or reading.new_path
                plan.kinds.update(reading.kinds)
                statement_locks, unknown = resolve(reading, catalog)
                plan.unknown |= unknown or (other_path and any(len(touch.name) == 1 for touch in reading.touches))
                for relation, mode in statement_locks.items():
                    locks[relation] = max(mode, locks.get(relation, mode))
    except Unreadable as problem:
        return FilePlan(migration, refusal=Failure(str(problem)))
    plan.locks = worth_telling(locks, catalog.relations)
    return plan


def resolve(reading: Reading, catalog: Catalog) -> tuple[dict[Relation, Mode], bool]:
    """Return what a statement locks of what there is, and whether that may not be all."""
    locks: dict[Relation, Mode] = {}
    unknown = reading.unknown or not reading.calls.isdisjoint(catalog.routines)

    def lock(relation: Relation, mode: Mode) -> None:
        locks[relation] = max(mode, locks.get(relation, mode))

    for touch in reading.touches:
        named = catalog.find(touch.name) if touch.name else None
        for relation in _reached(named, touch, catalog):
            lock(relation, touch.mode)
            for also in touch.also:
                for other in _along(relation, also, catalog):
                    lock(other, also.mode)
            writes = touch.mode == Mode.ROW_EXCLUSIVE
            unknown |= writes and (relation.kind == "v" or catalog.has_triggers(relation))
    return locks, unknown


def _reached(relation: Relation | None, touch: Touch, catalog: Catalog) -> Iterator[Relation]:
    if relation is None:
        return
    if touch.reach == "children" or (touch.reach == "partitions" and relation.kind in "pI"):
        yield from catalog.descendants(relation)
    else:
        yield relation


def _along(relation: Relation, also: Also, catalog: Catalog) -> Iterator[Relation]:
    deep = {"truncated_with": "referenced_by", "views": "views"}
    if also.edge in deep:
        yield from catalog.descendants(relation, deep[also.edge])
        return
    for neighbour in catalog.neighbours(relation, also.edge, also.name):
        yield from catalog.descendants(neighbour, "views") if also.edge == "reads" else [neighbour]
