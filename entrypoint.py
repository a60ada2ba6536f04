"""The program: settings, log, files, wait, lock, apply, tell, exit with the truth.

The only file that reads the environment and the command line, handles signals, and turns errors into exit codes.
Nothing heavy is imported before the signal handlers stand: as PID 1 a process without them ignores SIGTERM.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from sys import UnraisableHookArgs
    from types import FrameType

    from predeploy.migrations.directory import MigrationFiles
    from predeploy.report import Report
    from predeploy.settings import Settings

STARTED = time.monotonic()
_reports: list[Report] = []  # main()'s, once there is one
_last_resort: list[threading.Timer] = []  # the one that a signal has started
LAST_RESORT_S = 1.4  # after a signal: a frozen server answers neither the cancel request nor the rollback
LAST_WORD_S = 0.3  # after that: a stdout that nobody reads takes no last line either
# What is raised while libpq calls psycopg with a notice, or Python us with what it swallows, is printed and forgotten;
# what is raised between taking note of a file that is applied and the line that tells it leaves a log that is not true.
_UNDISTURBED = frozenset({"_notice_handler", "_raise_again", "applied"})


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGINT arrived. As a KeyboardInterrupt it makes psycopg cancel the statement on the server."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def run() -> NoReturn:
    """Be the process: handle signals, do what the command line says, leave with the exit code."""
    exit_code = 70
    gc.disable()  # nothing that is imported becomes garbage: 4 ms of a run that has nothing to do
    sys.setswitchinterval(0.0005)  # as long as the login's thread waits for its turn beside an import, or a file
    try:
        sys.unraisablehook = _raise_again
        _answer_signals(_terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # the image's launcher blocks them
        exit_code = main(sys.argv[1:], os.environ)
    except Terminated as end:  # it came where main() could not take it
        exit_code = _end(end)
    except Exception as error:
        if signalled := _signal_behind(error):
            exit_code = _end(signalled)
        else:
            import traceback

            traceback.print_exc()  # not even the log could be opened: an installation that is not whole
    finally:
        _leave(exit_code)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return the exit code; however it ends, the log's last line tells the same."""
    from predeploy.errors import StorageError
    from predeploy.log.setup import open_log
    from predeploy.report import Report
    from predeploy.settings import termination_log

    style = "json" if "--json" in arguments else "auto"
    report = Report(STARTED, open_log(style=style, environ=environ))
    _reports.append(report)
    try:
        report.termination_log = termination_log(environ)
        chosen = _command(arguments)
        if chosen is None:
            return 0
        command, options = chosen
        settings = _open(report, environ, command, options)
        COMMANDS[command](settings, report)
    except Terminated as end:
        report.end(end.exit_code, f"Ended by {end}.")
    except StorageError as error:
        report.end(error.exit_code, str(error), code=error.code, **error.fields)
    except Exception as error:
        if signalled := _signal_behind(error):
            report.end(signalled.exit_code, f"Ended by {signalled}.")
        else:
            report.crash(error)
    _answer_signals(_be_patient)
    return report.finish()


def _open(report: Report, environ: Mapping[str, str], command: str, options: frozenset[str]) -> Settings:
    """Read the settings, open the log as they want it, and check the connection string before anything waits."""
    from predeploy.connection.dsn import host_and_port, secrets_of
    from predeploy.log.setup import open_log
    from predeploy.settings import load_settings

    given = environ.get("DATABASE_URL", "")
    secrets = secrets_of(given)
    report.scrubber.learn(secrets)  # before anything could quote it
    settings = load_settings(environ, default_dir=f"{os.path.dirname(os.path.realpath(__file__))}/migrations")
    style = "json" if "json" in options else settings.log_format
    brief = command != "migrate"
    report.scrubber = open_log(level=settings.log_level, style=style, environ=environ, brief=brief)
    report.scrubber.learn(secrets if settings.dsn == given else secrets_of(settings.dsn))
    host_and_port(settings.dsn)
    return settings


def _start(settings: Settings) -> MigrationFiles:
    """Tell what begins, and read the files."""
    from predeploy import __version__
    from predeploy.connection.dsn import host_and_port
    from predeploy.errors import ConfigurationError
    from predeploy.migrations.directory import read_migrations

    host, port = host_and_port(settings.dsn)
    fields = {"version": __version__, "host": host, "port": port, "migrations_dir": settings.migrations_dir}
    _log("info", "run.started", f"pg-predeploy {__version__} for Postgres at {host}:{port}", **fields)
    if settings.unknown:
        names = ", ".join(settings.unknown)
        _log("warning", "settings.unknown", f"Ignored, as no settings of ours: {names}", names=list(settings.unknown))
    files = read_migrations(settings.migrations_dir)
    for name in files.lookalikes:
        _log("warning", "migration.ignored", f"Ignored: {name} does not end in .sql in small letters", migration=name)
    if settings.require_files and not files.migrations:
        raise ConfigurationError("MIGRATE_REQUIRE_FILES is set and there is no .sql file: is the directory mounted?")
    return files


def _migrate(settings: Settings, report: Report) -> None:
    from predeploy.apply.fast_path import Glance

    glance = Glance(settings.dsn, wait_timeout=settings.wait_timeout, lock_wait_timeout=settings.lock_wait_timeout)
    files = _start(settings)
    if glance.finds_all_applied(files, report.result):
        report.end(0)
        return
    from predeploy.connection.connect import Server

    server = Server(settings.dsn, wait_timeout=settings.wait_timeout, since=glance.since, make_room=glance.close)
    server.begin()
    from predeploy.apply.migrator import Migrator  # while it logs in

    gc.freeze()  # what has been imported stays: 10 ms of looking through it
    gc.enable()
    migrator = Migrator(
        server,
        files,
        lock_wait_timeout=settings.lock_wait_timeout,
        has_seen=glance.has_seen,
        lock_waited=glance.waited_s,
        on_lock=glance.close,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        retries=settings.retries,
        watch_after=settings.watch_after,
        stop_on_error=settings.on_error == "stop",
        direct_url=settings.direct_url,
        flush_once=settings.commit == "run",
    )
    report.result = migrator.result
    migrator.run()
    report.end(1 if report.result.errors else 0)


def _status(settings: Settings, report: Report) -> None:
    from predeploy.connection.connect import Server
    from predeploy.status import migration_status, tell_status

    files = _start(settings)
    with Server(settings.dsn, wait_timeout=settings.wait_timeout, writable=False).connection() as conn:
        counts = tell_status(migration_status(conn, files))
    report.end(0, ", ".join(f"{count} {state}" for state, count in counts.items()), **counts)


def _check(settings: Settings, report: Report) -> None:
    from predeploy.connection.connect import Server
    from predeploy.status import describe_pending, migration_status

    files = _start(settings)
    with Server(settings.dsn, wait_timeout=settings.wait_timeout, writable=False).connection() as conn:
        pending = [row.name for row in migration_status(conn, files) if row.state == "pending"]
    report.end(10 if pending else 0, describe_pending(pending), pending=len(pending))


def _plan(settings: Settings, report: Report) -> None:
    from predeploy.connection.connect import Server
    from predeploy.plan.static_plan import log_plan

    files = _start(settings)
    with Server(settings.dsn, wait_timeout=settings.wait_timeout, writable=False).connection() as conn:
        message, fields = log_plan(conn, files, report.result)
    report.end(1 if report.result.errors else 0, message, **fields)


def _rehearse(settings: Settings, report: Report) -> None:
    from predeploy.connection.connect import Server
    from predeploy.plan.rehearsal import rehearse

    files = _start(settings)
    message, fields = rehearse(
        Server(settings.dsn, wait_timeout=settings.wait_timeout),
        files,
        report.result,
        lock_wait_timeout=settings.lock_wait_timeout,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
    )
    report.end(1 if report.result.errors else 0, message, **fields)


def _health(settings: Settings, report: Report) -> None:
    from predeploy.connection.connect import Server
    from predeploy.connection.health import check_db_health

    _start(settings)
    health = check_db_health(Server(settings.dsn))
    message = f"Not healthy: {health.error}" if health.error else "Healthy"
    report.end(0 if health.ok else 3, message, latency_ms=health.latency_ms)


COMMANDS: dict[str, Callable[[Settings, Report], None]] = {
    "migrate": _migrate,
    "status": _status,
    "check": _check,
    "plan": _plan,
    "plan --rehearse": _rehearse,
    "health": _health,
}


def _command(arguments: Sequence[str]) -> tuple[str, frozenset[str]] | None:
    """Return the command and its options; None when --help or --version has said all. Seldom needs argparse."""
    command = arguments[0] if arguments else "migrate"
    if len(arguments) <= 1 and command in COMMANDS:
        return command, frozenset()
    from predeploy.cli import parse

    return parse(arguments, list(COMMANDS))


def _log(level: str, event: str, message: str, **fields: Any) -> None:
    import logging

    logging.getLogger("predeploy").log(getattr(logging, level.upper()), message, extra={"event": event, **fields})


def _signal_behind(error: BaseException | None) -> Terminated | None:
    """Find the signal in what it became: Python 3.11 makes a RuntimeError of what is raised while a class is made."""
    while error:
        if isinstance(error, Terminated):
            return error
        error = error.__cause__ or error.__context__
    return None


def _answer_signals(answer: Callable[[int, FrameType | None], None]) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, answer)


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Raise once; what comes after is the way out and must not be cut short by the same signal again."""
    end = Terminated(signum)
    _start_last_resort(end)
    if _is_among(frame, _UNDISTURBED):
        _send_again(signum)
        return
    _answer_signals(_do_nothing)
    raise end


def _is_among(frame: FrameType | None, names: frozenset[str]) -> bool:
    """Tell whether one of these functions is being run."""
    while frame and frame.f_code.co_name not in names:
        frame = frame.f_back
    return frame is not None


def _raise_again(swallowed: UnraisableHookArgs) -> None:
    """Send the signal again if it was raised where Python lets nothing out, as it does at the end of an import."""
    if isinstance(end := swallowed.exc_value, Terminated):
        _answer_signals(_terminate)
        _send_again(end.exit_code - 128)  # not raised here: it would be swallowed too


def _send_again(signum: int) -> None:
    """Send ourselves the signal in a moment, when it may be answered."""
    threading.Timer(0.001, os.kill, [os.getpid(), signum]).start()


def _be_patient(signum: int, _frame: FrameType | None) -> None:
    """Let the ending that is being told stand, unless it cannot be told."""
    _answer_signals(_do_nothing)
    _start_last_resort(Terminated(signum))


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """Stand in for SIG_IGN, of which Python complains on stderr when two signals come at once."""


def _start_last_resort(end: Terminated) -> None:
    """Leave in a while, whatever happens; the first signal's time counts."""
    if _last_resort:
        return

    def leave() -> None:
        threading.Timer(LAST_WORD_S, os._exit, [end.exit_code]).start()
        os._exit(_end(end, " before the server confirmed the end of what ran: _migrations tells what was committed"))

    last_resort = threading.Timer(LAST_RESORT_S, leave)
    last_resort.daemon = True
    _last_resort.append(last_resort)
    last_resort.start()


def _end(end: Terminated, how: str = "") -> int:
    """Tell the ending where main() cannot: before it has begun, or when the way out is blocked."""
    from predeploy.log.setup import open_log
    from predeploy.report import Report

    report = _reports[0] if _reports else Report(STARTED, open_log())
    report.end(end.exit_code, f"Ended by {end}{how}.")
    return report.finish()


def _leave(exit_code: int) -> NoReturn:
    """Flush and leave at once: an abandoned login thread must not hold the process, nor its teardown cost time."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    finally:
        os._exit(exit_code)


if __name__ == "__main__":
    run()
