"""The entry point: read the settings, open the log, run the command, report the outcome, exit.

The commands themselves are in `predeploy/commands.py`. This is the only file that reads the environment and the
command line. Heavy imports are deferred until the signal handlers are installed, because PID 1 ignores SIGTERM unless
it has a handler.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from predeploy.errors import CRASHED
from predeploy.signals import Terminated, ignore_signals_until_reported, raise_on_signals, signal_behind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from predeploy.cli import CommandLine
    from predeploy.connection.dsn import Dsn
    from predeploy.report import Report
    from predeploy.settings import Settings

STARTED = time.monotonic()
_reports: list[Report] = []  # holds the report of main() once it exists


def run() -> NoReturn:
    """Install the signal handlers, run the command, and exit with its exit code."""
    exit_code = CRASHED
    try:
        raise_on_signals(_report_forced_exit)
        exit_code = main(sys.argv[1:], os.environ)
    except BaseException as error:  # raised outside the `try` block of main()
        if signal := signal_behind(error):
            exit_code = _report_signal(signal)
        else:
            sys.__excepthook__(type(error), error, error.__traceback__)  # the log could not be opened
    finally:
        with suppress(AttributeError, OSError, ValueError):  # stdout is closed or has no reader
            sys.stdout.flush()
        os._exit(exit_code)  # skip interpreter shutdown, and do not wait for an abandoned login thread


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code, which always matches the last log line."""
    from predeploy.cli import parse
    from predeploy.commands import COMMANDS
    from predeploy.errors import StorageError
    from predeploy.log.setup import open_log
    from predeploy.report import Report
    from predeploy.settings import termination_log

    style = "json" if "--json" in arguments else "auto"
    report = Report(STARTED, open_log(style=style, environ=environ))
    _reports.append(report)
    try:
        report.termination_log = termination_log(environ)
        if not (command_line := parse(arguments)):
            return 0
        settings, dsn = _read_settings(environ, command_line, report)
        COMMANDS[command_line.command](settings, dsn, report, **command_line.options)
    except StorageError as error:
        report.set_outcome(error.exit_code, str(error), code=error.code, **error.fields)
    except (Terminated, Exception) as error:
        if signal := signal_behind(error):
            report.set_interrupted(signal.exit_code, str(signal))
        else:
            report.set_crashed(error)
    ignore_signals_until_reported()
    return report.write()


def _read_settings(environ: Mapping[str, str], command_line: CommandLine, report: Report) -> tuple[Settings, Dsn]:
    """Load the settings, open the configured log, and parse the connection string; register its secrets for masking."""
    from predeploy.connection.dsn import parse_dsn, secrets_in
    from predeploy.log.setup import open_log
    from predeploy.settings import load_settings

    url = environ.get("DATABASE_URL", "")
    try:
        settings = load_settings(environ, default_dir=_default_migrations_dir())
        url = settings.database_url
        style = "json" if command_line.json else settings.log_format
        brief = command_line.command != "migrate"
        report.scrubber = open_log(level=settings.log_level, style=style, environ=environ, brief=brief)
        report.scrubber.add_secrets(value for _, value in settings.migration_settings)
        dsn = parse_dsn(url)
    except Exception:  # the error text may quote a malformed connection string
        report.scrubber.add_secrets(secrets_in(url))
        raise
    report.scrubber.add_secrets(dsn.secrets)
    return settings, dsn


def _default_migrations_dir() -> str:
    """Return the path of `migrations/`: next to this file in a checkout, otherwise in the working directory."""
    folder, name = os.path.split(os.path.realpath(__file__))
    return f"{folder}/migrations" if name == "entrypoint.py" else "migrations"


def _report_forced_exit(signal: Terminated) -> int:
    return _report_signal(signal)


def _report_signal(signal: Terminated) -> int:
    """Write the last line when main() cannot: before its report exists, or while its cleanup is blocked."""
    from predeploy.log.setup import open_log
    from predeploy.report import Report

    report = _reports[0] if _reports else Report(STARTED, open_log())
    report.set_interrupted(signal.exit_code, str(signal))
    return report.write()


if __name__ == "__main__":
    run()
