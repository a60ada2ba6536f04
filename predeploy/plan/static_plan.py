"""Plan a run: find which migrations would run and what they would lock, without running them."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from predeploy.adopt.stop_sign import check_surroundings
from predeploy.apply.directive_warning import warn_of_ignored_directive
from predeploy.apply.drift import find_drift, refuse_copies, warn
from predeploy.apply.failure import log_failure
from predeploy.apply.migrations_table import read_rows
from predeploy.migrations.migration import MigrationFailure
from predeploy.migrations.validate import ChunkReader
from predeploy.plan.catalog import read_catalog
from predeploy.plan.lock_modes import LockMode
from predeploy.plan.statement_locks import read_statement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from predeploy.connection.connect import Connection
    from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult
    from predeploy.plan.catalog import Catalog, Relation
    from predeploy.plan.lock_modes import ImpliedLock, RelationLock, StatementEffects
    from predeploy.sql.table_name import TableName

log = logging.getLogger(__name__)

_MAX_NAMES = 8  # relations listed per lock mode in a message


@dataclass(slots=True)
class FilePlan:
    """The plan for one pending migration: its actions, and the strongest lock it takes on each existing relation.

    `unknown` is set if a statement may do more than its text shows. `failure` is set if the migration would fail before
    being sent.
    """

    migration: Migration
    statement_count: int = 0
    action_counts: Counter[str] = field(default_factory=Counter)
    locks: dict[Relation, LockMode] = field(default_factory=dict)
    unknown: bool = False
    failure: MigrationFailure | None = None


def plan_migrations(
    conn: Connection, files: MigrationFiles, table: TableName, *, foreign_history: str = "stop"
) -> list[FilePlan]:
    """Return the plans for all pending migrations, in order.

    Raise `ConfigurationError` if nothing is recorded and another tool's history has rows, unless `foreign_history` is
    "ignore".
    """
    rows = read_rows(conn, table) or {}
    if files.migrations and not rows:
        check_surroundings(conn, table, files, foreign_history=foreign_history)
    drift = find_drift(files, rows)
    refuse_copies(drift)
    warn(drift.findings, ("renamed", "misordered", "late"))
    catalog = read_catalog(conn)
    return [_plan_file(migration, catalog, table) for migration in drift.pending]


def log_plan(
    conn: Connection,
    files: MigrationFiles,
    table: TableName,
    result: MigrationResult,
    *,
    foreign_history: str = "stop",
) -> tuple[str, dict[str, Any]]:
    """Log the plan, add expected failures to `result`, and return the message and fields for the summary line."""
    plans = plan_migrations(conn, files, table, foreign_history=foreign_history)
    for plan in plans:
        warn_of_ignored_directive(plan.migration)
        if plan.failure:
            log_failure("Would fail", plan.migration, plan.failure, result, files.migrations)
            continue
        fields = {
            "migration": plan.migration.name,
            "transactional": plan.migration.transactional,
            "statements": plan.statement_count,
            "kinds": dict(plan.action_counts),
            "locks": lock_fields(plan.locks),
            "unknown": plan.unknown,
        }
        log.info("%s", _message(plan), extra={"event": "migration.planned", **fields})
    return f"{len(plans)} pending, {len(result.errors)} would fail", {"pending": len(plans)}


def lock_fields(locks: Mapping[Relation, LockMode]) -> list[dict[str, str]]:
    """Return the locks as log fields, strongest first."""
    ordered = sorted(locks.items(), key=lambda lock: (-lock[1], str(lock[0])))
    return [{"relation": str(relation), "mode": mode.sql_name} for relation, mode in ordered]


def describe_locks(locks: Mapping[Relation, LockMode]) -> str:
    """Return the locks as the end of a sentence, strongest first, or "" if there are none."""
    groups = []
    for mode in sorted(set(locks.values()), reverse=True):
        names = sorted(str(relation) for relation, held in locks.items() if held == mode)
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        groups.append(f"{mode.sql_name} on {', '.join(names[:_MAX_NAMES])}{more}")
    return "; ".join(groups)


def add_lock(locks: dict[Relation, LockMode], relation: Relation, mode: LockMode) -> None:
    """Add a lock, unless a stronger lock on the relation is already included."""
    locks[relation] = max(mode, locks.get(relation, mode))


def relevant_locks(locks: Mapping[Relation, LockMode], relations: Mapping[int, Relation]) -> dict[Relation, LockMode]:
    """Omit indexes not locked more strongly than their table, and sequences that other sessions can still use."""
    found = {}
    for relation, mode in locks.items():
        table = relations.get(relation.table or 0)
        on_table = locks.get(table, LockMode.ACCESS_SHARE) if table else LockMode.ACCESS_SHARE
        if relation.is_table_or_view or mode > max(on_table, LockMode.SHARE_UPDATE_EXCLUSIVE):
            found[relation] = mode
    return found


def _message(plan: FilePlan) -> str:
    actions = ", ".join(f"{count} x {action}" if count > 1 else action for action, count in plan.action_counts.items())
    how = "in a transaction" if plan.migration.transactional else "without a transaction"
    unknown = "; may take other locks (run plan --rehearse to see)" if plan.unknown else ""
    locks = describe_locks(plan.locks) or "takes no locks on existing tables"
    return f"Would run {plan.migration.name} {how}: {actions or 'no statements'}; {locks}{unknown}"


def _plan_file(migration: Migration, catalog: Catalog, table: TableName) -> FilePlan:
    plan = FilePlan(migration)
    locks: dict[Relation, LockMode] = {}
    search_path_changed = False
    try:
        for chunk in ChunkReader(migration, table.name):
            plan.statement_count += len(chunk.scan.statements)
            for statement in chunk.scan.statements:
                effects = read_statement(chunk.text, statement)
                catalog.routines.add(effects.creates_routine)
                search_path_changed |= effects.changes_search_path
                plan.action_counts.update(effects.actions)
                statement_locks, unknown = resolve_locks(effects, catalog)
                plan.unknown |= unknown or (search_path_changed and any(len(lock.name) == 1 for lock in effects.locks))
                for relation, mode in statement_locks.items():
                    add_lock(locks, relation, mode)
    except MigrationFailure as failure:
        return FilePlan(migration, failure=failure)
    plan.locks = relevant_locks(locks, catalog.relations)
    return plan


def resolve_locks(effects: StatementEffects, catalog: Catalog) -> tuple[dict[Relation, LockMode], bool]:
    """Return a statement's locks on existing relations, and whether it may take other locks."""
    locks: dict[Relation, LockMode] = {}
    unknown = effects.unknown or not effects.calls.isdisjoint(catalog.routines)
    for lock in effects.locks:
        named = catalog.find(lock.name) if lock.name else None
        for relation in _in_scope(named, lock, catalog):
            add_lock(locks, relation, lock.mode)
            for implied in lock.implied:
                for other in _implied_relations(relation, implied, catalog):
                    add_lock(locks, other, implied.mode)
            writes = lock.mode == LockMode.ROW_EXCLUSIVE
            unknown |= writes and (relation.kind == "v" or catalog.has_triggers(relation))
    return locks, unknown


def _in_scope(relation: Relation | None, lock: RelationLock, catalog: Catalog) -> Iterator[Relation]:
    if relation is None:
        return
    if lock.scope == "children" or (lock.scope == "partitions" and relation.kind in "pI"):
        yield from catalog.reachable(relation, "child")
    else:
        yield relation


def _implied_relations(relation: Relation, implied: ImpliedLock, catalog: Catalog) -> Iterator[Relation]:
    if implied.relationship == "truncated_with":
        yield from catalog.reachable(relation, "referenced_by")
    elif implied.relationship == "views":
        yield from catalog.reachable(relation, "views")
    else:
        for other in catalog.related(relation, implied.relationship, implied.name):
            yield from catalog.reachable(other, "views") if implied.relationship == "reads" else [other]
