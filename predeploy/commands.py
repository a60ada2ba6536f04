"""The commands. Each one takes the settings, the connection string and the report, and sets the report's outcome."""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from predeploy import __version__
from predeploy.errors import ConfigurationError
from predeploy.migrations.directory import read_migrations

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from predeploy.connection.connect import Connection
    from predeploy.connection.dsn import Dsn
    from predeploy.migrations.migration import MigrationFiles
    from predeploy.report import Report
    from predeploy.settings import Settings

log = logging.getLogger("predeploy")

STATES = ("applied", "pending", "changed", "missing")
_MAX_NAMES = 5


def migrate(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Apply the pending migrations."""
    from predeploy.apply.fast_path import FastPath

    started = time.monotonic()
    fast_path = FastPath(dsn, wait_timeout=settings.wait_timeout)  # logs in while the files are being read
    files = _read_files(settings, dsn)
    if fast_path.everything_is_applied(files, report.result):
        report.set_outcome(0)
        return
    gc.disable()  # imports create no garbage; collection during imports takes 10 ms in a run that applies 20 files
    from predeploy.apply.migrator import Migrator
    from predeploy.apply.run_options import RunOptions
    from predeploy.connection.connect import Server

    gc.freeze()
    gc.enable()
    server = Server(dsn, wait_timeout=settings.wait_timeout, wait_started=started)
    options = RunOptions(
        lock_wait_timeout=settings.lock_wait_timeout,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        attempts=settings.retries,
        watch_after=settings.watch_after,
        stop_on_error=settings.on_error == "stop",
        direct_url=settings.direct_url,
        foreign_history=settings.foreign_history,
    )
    migrator = Migrator(server, files, options)
    report.follow(migrator.state.result, lambda: migrator.state.interrupted)
    migrator.run()
    report.set_outcome(1 if report.result.errors else 0)


def status(settings: Settings, dsn: Dsn, report: Report) -> None:
    """List every migration with its state."""
    counts = _log_status(_statuses(settings, dsn, warn_only=True))
    report.set_outcome(0, ", ".join(f"{count} {state}" for state, count in counts.items()), **counts)


def check(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Report through the exit code whether any migration is pending."""
    pending = [row.name for row in _statuses(settings, dsn) if row.state == "pending"]
    report.set_outcome(10 if pending else 0, _describe_pending(pending), pending=len(pending))


def plan(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Report which migrations would run and which locks they would take, without running them."""
    from predeploy.connection.connect import Server
    from predeploy.plan.static_plan import log_plan

    files = _read_files(settings, dsn)
    with Server(dsn, wait_timeout=settings.wait_timeout, writable=False).connection() as conn:
        message, fields = log_plan(conn, files, report.result, foreign_history=settings.foreign_history)
    report.set_outcome(1 if report.result.errors else 0, message, **fields)


def rehearse(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Run the pending migrations in a transaction that is then rolled back."""
    from predeploy.connection.connect import Server
    from predeploy.plan import rehearsal

    files = _read_files(settings, dsn)
    message, fields = rehearsal.rehearse(
        Server(dsn, wait_timeout=settings.wait_timeout),
        files,
        report.result,
        lock_wait_timeout=settings.lock_wait_timeout,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        foreign_history=settings.foreign_history,
    )
    report.set_outcome(1 if report.result.errors else 0, message, **fields)


def baseline(
    settings: Settings, dsn: Dsn, report: Report, *, through: str | None, tool: str | None, dry_run: bool
) -> None:
    """Record migrations without running them: up to the file `through`, those that `tool` has applied, or all."""
    from predeploy.apply import baseline as recording
    from predeploy.connection.connect import Server

    files = _read_files(settings, dsn)
    if tool is None:
        choose = recording.through(files, through)
    else:
        choose = recording.from_tool(files, settings.migrations_dir, tool)
    server = Server(dsn, wait_timeout=settings.wait_timeout, writable=not dry_run)
    with server.connection() as conn:
        timeout = settings.lock_wait_timeout
        recorded = recording.record(server, conn, files, choose, lock_wait_timeout=timeout, dry_run=dry_run)
        with recording.errors_classified(conn):
            rows = migration_status(conn, files)
    if dry_run:
        rows = [replace(row, state="applied") if row.name in recorded else row for row in rows]
    counts = _log_status(rows)
    what = f"{'Would record' if dry_run else 'Recorded'} {len(recorded)} migration{'' if len(recorded) == 1 else 's'}"
    report.set_outcome(0, f"{what}; {counts['pending']} pending", recorded=len(recorded), **counts)


def health(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Report whether the database answers."""
    from predeploy.connection.connect import Server
    from predeploy.connection.health import check_db_health

    _read_files(settings, dsn)
    found = check_db_health(Server(dsn))
    message = f"Unhealthy: {found.error}" if found.error else "Healthy"
    report.set_outcome(0 if found.ok else 3, message, latency_ms=found.latency_ms)


COMMANDS: dict[str, Callable[..., None]] = {
    "migrate": migrate,
    "status": status,
    "check": check,
    "plan": plan,
    "plan --rehearse": rehearse,
    "baseline": baseline,
    "health": health,
}


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration's name and state: `applied`, `pending`, `changed` since it was applied, or `missing` on disk."""

    name: str
    state: str
    applied_at: datetime | None = None


def migration_status(conn: Connection, files: MigrationFiles) -> list[MigrationStatus]:
    """Return the state of every file, and of every row without a file, sorted by name."""
    from predeploy.apply.drift import has_changed
    from predeploy.apply.migrations_table import read_rows

    rows = read_rows(conn) or {}
    found = {}
    for migration in files.migrations:
        row = rows.get(migration.name)
        state = "pending" if row is None else "changed" if has_changed(migration, row.checksum) else "applied"
        found[migration.name] = MigrationStatus(migration.name, state, row.applied_at if row else None)
    for name in rows.keys() - found.keys():
        found[name] = MigrationStatus(name, "missing", rows[name].applied_at)
    return [found[name] for name in sorted(found)]


def _read_files(settings: Settings, dsn: Dsn) -> MigrationFiles:
    """Log the start of the run and read the files before connecting, so that a broken mount is reported at once."""
    fields = {"version": __version__, "host": dsn.host, "port": dsn.port, "migrations_dir": settings.migrations_dir}
    message = f"Starting pg-predeploy {__version__} for Postgres at {dsn.host}:{dsn.port}"
    log.info("%s", message, extra={"event": "run.started", **fields})
    if settings.unknown:
        names = {"event": "settings.unknown", "names": list(settings.unknown)}
        plural = "s" if len(settings.unknown) > 1 else ""
        log.warning("Ignoring unknown setting%s %s", plural, ", ".join(settings.unknown), extra=names)
    files = read_migrations(settings.migrations_dir)
    for name in files.lookalikes:
        fields = {"event": "migration.ignored", "migration": name}
        log.warning("Ignoring %s: the extension must be lower-case .sql", name, extra=fields)
    if settings.require_files and not files.migrations:
        raise ConfigurationError(
            "MIGRATE_REQUIRE_FILES is set, but MIGRATIONS_DIR has no .sql files. Check that the directory is mounted."
        )
    return files


def _statuses(settings: Settings, dsn: Dsn, *, warn_only: bool = False) -> list[MigrationStatus]:
    """Return the state of every migration.

    If nothing is recorded and another tool may have applied the pending migrations, raise `ConfigurationError`, or log
    a warning if `warn_only`.
    """
    from predeploy.connection.connect import Server

    files = _read_files(settings, dsn)
    with Server(dsn, wait_timeout=settings.wait_timeout, writable=False).connection() as conn:
        rows = migration_status(conn, files)
        if rows and all(row.applied_at is None for row in rows):
            from predeploy.adopt.stop_sign import check_surroundings, warn_of_surroundings

            check = warn_of_surroundings if warn_only else check_surroundings
            check(conn, foreign_history=settings.foreign_history)
        return rows


def _log_status(rows: list[MigrationStatus]) -> dict[str, int]:
    """Log each row and return the number of migrations per state."""
    for row in rows:
        applied_at = row.applied_at.isoformat() if row.applied_at else None
        fields = {"migration": row.name, "state": row.state, "applied_at": applied_at}
        log.info("%-7s %s", row.state, row.name, extra={"event": "migration.status", **fields})
    counts = Counter(row.state for row in rows)
    return {state: counts[state] for state in STATES}


def _describe_pending(names: list[str]) -> str:
    if not names:
        return "No pending migrations"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{len(names)} pending: {', '.join(names[:_MAX_NAMES])}{more}"
