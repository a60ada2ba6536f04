"""The command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from predeploy import __version__
from predeploy.errors import EXIT_CODES, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("migrate", "status", "check", "plan", "plan --rehearse", "health")
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
  MIGRATE_REQUIRE_FILES      false     or true: an empty or missing directory is an error
  MIGRATE_LOG_LEVEL          info      or debug, warning, error
  MIGRATE_LOG_FORMAT         auto      or json, text; auto is text on a terminal
  MIGRATE_TERMINATION_LOG    /dev/termination-log, when it exists

exit codes:
"""


class CommandLine(NamedTuple):
    """A command, and whether --json asks for JSON lines whatever the terminal and the settings say."""

    command: str
    json: bool = False


def parse(arguments: Sequence[str]) -> CommandLine | None:
    """Read the command line; return None when --help or --version has answered it.

    Raise `ConfigurationError` for anything unknown; its text never repeats an argument, which may be a connection
    string in the wrong place.
    """
    command = arguments[0] if arguments else "migrate"
    if len(arguments) <= 1 and command in COMMANDS:
        return CommandLine(command)
    from argparse import SUPPRESS, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter  # few runs need it

    exit_codes = "".join(f"  {code:<6} {known.meaning}\n" for code, known in EXIT_CODES.items())
    parser = ArgumentParser(
        prog="pg-predeploy",
        usage="pg-predeploy [command] [options]",
        description="Wait for Postgres and run .sql migrations under a lock.",
        epilog=f"{_HELP}{exit_codes}  128+n  ended by signal n\n",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    parser.add_argument("command", nargs="?", default="migrate", metavar="command", help=SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help=SUPPRESS)
    for name in ("version", "json", "rehearse"):
        parser.add_argument(f"--{name}", action="store_true", help=SUPPRESS)
    refusal = ConfigurationError("Unknown command or option; pg-predeploy --help lists them.")
    try:
        given, unknown = parser.parse_known_args(arguments)
    except ArgumentError:
        raise refusal from None
    command = f"{given.command} --rehearse" if given.rehearse else given.command
    if not unknown and given.help:
        parser.print_help()
    elif not unknown and given.version:
        print(f"pg-predeploy {__version__}")
    elif unknown or command not in COMMANDS or " " in given.command:
        raise refusal
    else:
        return CommandLine(command, given.json)
    return None
