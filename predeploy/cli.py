"""Command-line parsing."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from predeploy import __version__
from predeploy.errors import EXIT_CODES, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMANDS = ("migrate", "status", "check", "plan", "plan --rehearse", "baseline", "health")
_HELP = """\
commands:
  migrate   apply the pending migrations (the default)
  status    list every migration: applied, pending, changed or missing
  check     exit with 0 if no migration is pending, with 10 otherwise
  plan      show the pending migrations and the locks that they would take; change nothing
  plan --rehearse
            run the pending migrations in a transaction, roll it back, and show their duration and locks
  baseline --through NAME | --all | --from TOOL | --from auto
            record migrations without running them: up to a file, all files, or those that another tool has applied
  health    exit with 0 if the database answers within 5 s, with 3 otherwise

options:
  --rehearse (plan only), --version, --help
  --dry-run (baseline only)
            show what would be recorded; change nothing
  --json    log one JSON object per line, regardless of MIGRATE_LOG_FORMAT and the terminal

environment (with defaults; durations in seconds, or with a unit: 500ms, 30s, 5m):
  DATABASE_URL               required  postgresql:// URI or key=value string; PG* variables supply what it omits
  DATABASE_URL_FILE                    file to read the connection string from, instead of DATABASE_URL
  MIGRATIONS_DIR                       directory of the .sql files
  MIGRATE_WAIT_TIMEOUT       60        how long to wait for Postgres
  MIGRATE_LOCK_WAIT_TIMEOUT  300       how long to wait for another runner to finish
  MIGRATE_LOCK_TIMEOUT       off       lock_timeout inside each migration
  MIGRATE_STATEMENT_TIMEOUT  off       statement_timeout inside each migration
  MIGRATE_RETRIES            5         maximum attempts on a lock timeout, deadlock or serialization failure
  MIGRATE_WATCH_AFTER        5         log progress once a migration has run this long; 0 = never
  MIGRATE_ON_ERROR           continue  after a failed migration: continue or stop
  MIGRATE_FOREIGN_HISTORY    stop      if another tool has migrated the database: stop or ignore
  MIGRATE_REQUIRE_FILES      false     true = fail if the directory is missing or has no .sql files
  MIGRATE_ORDER              name      name (code points) or numeric (2_b before 10_a; also sorts Flyway versions)
  MIGRATE_STRICT                       errors, not warnings: all, or changed,missing,late,misordered,renamed,ignored
  MIGRATE_TABLE              _migrations  table of the applied migrations: name or schema.name
  MIGRATE_SET_<NAME>                   value of predeploy.<name>, which the migrations can read; not for secrets
  MIGRATE_LOG_LEVEL          info      debug, info, warning or error
  MIGRATE_LOG_FORMAT         auto      json, text or auto (text on a terminal, otherwise json)
  MIGRATE_TERMINATION_LOG              file for the termination message (/dev/termination-log, if it exists)

exit codes:
"""


_CHOOSE = "Choose exactly one: baseline --through NAME, baseline --all or baseline --from TOOL."


class CommandLine(NamedTuple):
    """The command to run, and whether --json was passed, which overrides the log format.

    `options` are the keyword arguments of the command.
    """

    command: str
    json: bool = False
    options: Mapping[str, Any] = MappingProxyType({})


def parse(arguments: Sequence[str]) -> CommandLine | None:
    """Parse the command line. Return None if --help or --version was handled.

    Raise `ConfigurationError` for an unknown command or option. The message never quotes an argument, because the
    argument may be a misplaced connection string.
    """
    command = arguments[0] if arguments else "migrate"
    if len(arguments) <= 1 and command in COMMANDS and command != "baseline":
        return CommandLine(command)
    from argparse import SUPPRESS, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter  # rarely used

    exit_codes = "".join(f"  {code:<6} {known.meaning}\n" for code, known in EXIT_CODES.items())
    parser = ArgumentParser(
        prog="pg-predeploy",
        usage="pg-predeploy [command] [options]",
        description="Wait for Postgres, then apply .sql migrations under a lock.",
        epilog=f"{_HELP}{exit_codes}  128+n  interrupted by signal n\n",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    parser.add_argument("command", nargs="?", default="migrate", metavar="command", help=SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help=SUPPRESS)
    for name in ("version", "json", "rehearse", "all", "dry-run"):
        parser.add_argument(f"--{name}", action="store_true", help=SUPPRESS)
    for name in ("through", "from"):
        parser.add_argument(f"--{name}", help=SUPPRESS)
    refusal = ConfigurationError("Unknown command or option. Run pg-predeploy --help for a list.")
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
        return CommandLine(command, given.json, _options(command, vars(given), refusal))
    return None


def _options(command: str, given: Mapping[str, Any], refusal: ConfigurationError) -> Mapping[str, Any]:
    """Return the keyword arguments of the command; raise `refusal` if an option belongs to another command."""
    through, tool = given["through"], given["from"]
    chosen = [through is not None, tool is not None, given["all"]].count(True)
    if command != "baseline":
        if chosen or given["dry_run"]:
            raise refusal
        return {}
    if chosen != 1:
        raise ConfigurationError(_CHOOSE)
    return {"through": through, "tool": tool, "dry_run": given["dry_run"]}
