"""The command line, where it holds more than a command's name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from predeploy import __version__
from predeploy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS: dict[str, tuple[str, ...]] = {  # each with the commands that have it; none stands for all
    "json": (),
    "rehearse": ("plan",),
}
_HELP = """\
commands:
  migrate   apply what is pending (the default)
  status    list every migration: applied, pending, changed, missing on disk
  check     exit 0 when nothing is pending, 10 otherwise
  plan      tell what would run and which locks it would take; changes nothing
  plan --rehearse
            run it in a transaction that is rolled back, and tell how long it took and what it locked
  health    exit 0 when the database answers within 5 s, 3 otherwise

options:
  --rehearse (of plan), --version, --help
  --json    one JSON object a line, whatever MIGRATE_LOG_FORMAT and the terminal say

environment (durations in seconds, or with a unit: 500ms, 30s, 5m):
  DATABASE_URL               postgresql:// URI or key=value string; libpq's PG* variables fill what it leaves out
  DATABASE_URL_FILE          a file that holds it, instead
  MIGRATIONS_DIR             the directory of .sql files
  MIGRATE_WAIT_TIMEOUT       60        for the server to accept us
  MIGRATE_LOCK_WAIT_TIMEOUT  300       for another runner to finish
  MIGRATE_LOCK_TIMEOUT       off       lock_timeout inside each migration
  MIGRATE_STATEMENT_TIMEOUT  off       statement_timeout inside each migration
  MIGRATE_RETRIES            5         attempts for a file that met a lock timeout, a deadlock, a serialization failure
  MIGRATE_WATCH_AFTER        5         how long a migration runs before its progress is told; 0: never
  MIGRATE_ON_ERROR           continue  or stop
  MIGRATE_COMMIT             each      or run: only the last commit waits for the disk
  MIGRATE_REQUIRE_FILES      false     or true: an empty or missing directory is an error
  MIGRATE_LOG_LEVEL          info      or debug, warning, error
  MIGRATE_LOG_FORMAT         auto      or json, text; auto is text on a terminal
  MIGRATE_TERMINATION_LOG    /dev/termination-log, when it exists

exit codes:
  0 applied or already there    1 a file failed           2 configuration      3 Postgres not reachable
  4 lock held by another        5 refused for good        6 connection lost    10 check: something is pending
  70 a bug of ours              128+n ended by signal n
"""


def parse(arguments: Sequence[str], commands: list[str]) -> tuple[str, frozenset[str]] | None:
    """Return the command and the names of its options, or None after --help or --version; `plan --rehearse` is one.

    Raise `ConfigurationError` for anything else; its text never repeats an argument, which may be a connection string
    in the wrong place.
    """
    parser = _Parser(
        prog="pg-predeploy",
        usage="pg-predeploy [command] [options]",
        description="Wait for Postgres and run .sql migrations under a lock.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    # The epilog is the help of each.
    parser.add_argument(
        "command", nargs="?", default="migrate", choices=commands, metavar="command", help=argparse.SUPPRESS
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"pg-predeploy {__version__}", help=argparse.SUPPRESS)
    for name in OPTIONS:
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    try:
        found = parser.parse_args(arguments)
    except SystemExit:
        return None
    options = frozenset(name for name in OPTIONS if getattr(found, name))
    if any(OPTIONS[name] and found.command not in OPTIONS[name] for name in options):
        parser.error("")
    command = f"{found.command} --rehearse" if "rehearse" in options else str(found.command)
    return command, options - {"rehearse"}


class _Parser(argparse.ArgumentParser):
    def error(self, _message: str) -> NoReturn:
        raise ConfigurationError("Unknown command or option; pg-predeploy --help lists them.")
