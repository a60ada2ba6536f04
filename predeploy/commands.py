"""The commands. Each one takes the settings, the connection string and the report, and sets the report's outcome."""

from __future__ import annotations

import gc
import logging
import re
import time
from typing import TYPE_CHECKING

from predeploy import __version__
from predeploy.errors import ConfigurationError
from predeploy.migrations.directory import read_migrations
from predeploy.migrations.layout import CALLBACK, NOT_READ, ROLLBACK

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from predeploy.connection.connect import Connection
    from predeploy.connection.dsn import Dsn
    from predeploy.migrations.migration import MigrationFiles
    from predeploy.report import Report
    from predeploy.settings import Settings

log = logging.getLogger("predeploy")

_MAX_NAMES = 5
_MAX_IGNORED = 100  # names in the fields of one log line
_MISTYPED = re.compile(r"""["'*]|^[a-z][a-z0-9+.-]*://|^file:|^~|^\s|\s$""", re.IGNORECASE)


def migrate(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Apply the pending migrations."""
    from predeploy.apply.fast_path import FastPath

    started = time.monotonic()
    fast_path = FastPath(dsn, settings.table, wait_timeout=settings.wait_timeout)  # logs in while files are read
    files = _read_files(settings, dsn)
    if fast_path.everything_is_applied(files, settings.strict, report.result):
        _set_outcome(report, files, settings)
        return
    gc.disable()  # imports create no garbage; collection during imports takes 10 ms in a run that applies 20 files
    from predeploy.apply.migrator import Migrator, is_up_to_date
    from predeploy.apply.run_options import RunOptions
    from predeploy.connection.connect import Server

    gc.freeze()
    gc.enable()
    server = Server(
        dsn,
        wait_timeout=settings.wait_timeout,
        wait_started=started,
        read_only_ok=lambda conn: is_up_to_date(conn, files, settings.table),
    )
    options = RunOptions(
        lock_wait_timeout=settings.lock_wait_timeout,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        attempts=settings.retries,
        watch_after=settings.watch_after,
        stop_on_error=settings.on_error == "stop",
        direct_url=settings.direct_url,
        table=settings.table,
        strict=settings.strict,
        migration_settings=settings.migration_settings,
        foreign_history=settings.foreign_history,
    )
    migrator = Migrator(server, files, options)
    report.follow(migrator.state.result, lambda: migrator.state.interrupted)
    migrator.run()
    _set_outcome(report, files, settings)


def status(settings: Settings, dsn: Dsn, report: Report) -> None:
    """List every migration with its state."""
    from predeploy.apply.status import log_status

    files = _read_files(settings, dsn)
    with _connection(settings, dsn) as conn:
        recorded = _read_rows(conn, settings, files, warn_only=True)
        counts = log_status(conn, files, recorded, settings.table)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    message = summary if any(counts.values()) else no_files_message(files, settings.migrations_dir)
    report.set_outcome(0, message, **counts)


def check(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Report through the exit code whether a migration is pending, or MIGRATE_STRICT makes a finding an error."""
    from predeploy.apply.drift import find_drift, refuse

    files = _read_files(settings, dsn)
    with _connection(settings, dsn) as conn:
        drift = find_drift(files, _read_rows(conn, settings, files))
    pending = [migration.name for migration in drift.pending]
    if refuse(drift.findings, settings.strict, report.result):
        report.set_outcome(1, pending=len(pending))
        return
    message = _describe_pending(pending) if files.migrations else no_files_message(files, settings.migrations_dir)
    report.set_outcome(10 if pending else 0, message, pending=len(pending))


def plan(settings: Settings, dsn: Dsn, report: Report) -> None:
    """Report which migrations would run and which locks they would take, without running them."""
    from predeploy.connection.connect import Server, always
    from predeploy.plan.static_plan import log_plan

    files = _read_files(settings, dsn)
    with Server(dsn, wait_timeout=settings.wait_timeout, read_only_ok=always).connection() as conn:
        message, fields = log_plan(conn, files, settings.table, report.result, foreign_history=settings.foreign_history)
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
        table=settings.table,
        migration_settings=settings.migration_settings,
        foreign_history=settings.foreign_history,
    )
    report.set_outcome(1 if report.result.errors else 0, message, **fields)


def baseline(
    settings: Settings, dsn: Dsn, report: Report, *, through: str | None, tool: str | None, dry_run: bool
) -> None:
    """Record migrations without running them: up to the file `through`, those that `tool` has applied, or all."""
    from predeploy.apply import baseline as recording
    from predeploy.apply.migrations_table import read_rows
    from predeploy.apply.status import log_status
    from predeploy.connection.connect import Server, always, never

    files = _read_files(settings, dsn)
    if tool is None:
        choose = recording.through(files, through)
    else:
        choose = recording.from_tool(files, settings.migrations_dir, tool, settings.table)
    server = Server(dsn, wait_timeout=settings.wait_timeout, read_only_ok=always if dry_run else never)
    with server.connection() as conn:
        timeout = settings.lock_wait_timeout
        recorded = recording.record(
            server, conn, files, choose, table=settings.table, lock_wait_timeout=timeout, dry_run=dry_run
        )
        with recording.errors_classified(conn):
            rows = read_rows(conn, settings.table) or {}
            rows |= {m.name: m.checksum for m in files.migrations if m.name in recorded}
            counts = log_status(conn, files, rows, settings.table)
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


def no_files_message(files: MigrationFiles, directory: str) -> str:
    """Return the message for a run without migrations: the directory is missing, or has no migration files."""
    if not files.found:
        return f"No migrations: the directory {directory} does not exist"
    return f"No migrations: the directory {directory} contains no migration files"


def _set_outcome(report: Report, files: MigrationFiles, settings: Settings) -> None:
    no_files = None if files.migrations else no_files_message(files, settings.migrations_dir)
    if report.result.errors:
        report.set_outcome(1)
    else:
        report.set_outcome(0, no_files)


def _read_files(settings: Settings, dsn: Dsn) -> MigrationFiles:
    """Log the start of the run and read the files before connecting, so that a broken mount is reported at once."""
    fields = {"version": __version__, "host": dsn.host, "port": dsn.port, "migrations_dir": settings.migrations_dir}
    message = f"Starting pg-predeploy {__version__} for Postgres at {dsn.host}:{dsn.port}"
    log.info("%s", message, extra={"event": "run.started", **fields})
    if settings.unknown:
        names = {"event": "settings.unknown", "names": list(settings.unknown)}
        plural = "s" if len(settings.unknown) > 1 else ""
        log.warning("Ignoring unknown setting%s %s", plural, ", ".join(settings.unknown), extra=names)
    files = read_migrations(settings.migrations_dir, numeric=settings.numeric_order)
    if not files.found and _MISTYPED.search(settings.migrations_dir):
        raise ConfigurationError(
            "The directory in MIGRATIONS_DIR does not exist. The value seems mistyped: check for quotes, *, "
            "a URL scheme, ~, and white space at either end."
        )
    _log_ignored(files)
    if settings.require_files and not files.migrations:
        raise ConfigurationError(
            "MIGRATE_REQUIRE_FILES is set, but MIGRATIONS_DIR has no .sql files. Check that the directory is mounted."
        )
    return files


def _log_ignored(files: MigrationFiles) -> None:
    """Log the files that never run, one line per kind."""
    kinds = {
        ROLLBACK: (logging.INFO, "rollback files are never run"),
        CALLBACK: (logging.WARNING, "Flyway callbacks never run"),
        NOT_READ: (
            logging.WARNING,
            "migrations are NAME.sql, or NAME/migration.sql or NAME/up.sql in a directory without .sql files",
        ),
    }
    for kind, (level, why) in kinds.items():
        if names := [file.name for file in files.ignored if file.kind == kind]:
            shown = f"{', '.join(names[:_MAX_NAMES])}{_more(names)}"
            fields = {"migration": names[0], "count": len(names), "names": names[:_MAX_IGNORED]}
            extra = {"event": "migration.ignored", **fields}
            log.log(level, "Ignoring %s file%s: %s; %s", len(names), "s"[: len(names) > 1], shown, why, extra=extra)


def _connection(settings: Settings, dsn: Dsn) -> AbstractContextManager[Connection]:
    from predeploy.connection.connect import Server, always

    return Server(dsn, wait_timeout=settings.wait_timeout, read_only_ok=always).connection()


def _read_rows(
    conn: Connection, settings: Settings, files: MigrationFiles, *, warn_only: bool = False
) -> dict[str, str | None]:
    """Return the checksums of the recorded migrations by name.

    If nothing is recorded and another tool may have applied the pending migrations, raise `ConfigurationError`, or log
    a warning if `warn_only`.
    """
    from predeploy.apply.migrations_table import read_rows

    rows = read_rows(conn, settings.table) or {}
    if files.migrations and not rows:
        from predeploy.adopt.stop_sign import check_surroundings, warn_of_surroundings

        look = warn_of_surroundings if warn_only else check_surroundings
        look(conn, settings.table, files, foreign_history=settings.foreign_history)
    return rows


def _describe_pending(names: list[str]) -> str:
    if not names:
        return "No pending migrations"
    return f"{len(names)} pending: {', '.join(names[:_MAX_NAMES])}{_more(names)}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
