"""Exit codes, and the exceptions that end a run: one for each outcome that operators handle differently.

A failed migration does not raise one of these exceptions: it is an expected outcome, listed in
`MigrationResult.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class ExitCode(NamedTuple):
    """The value of `outcome` on the summary line, and the description in --help."""

    outcome: str
    meaning: str


CRASHED = 70
INTERRUPTED = "interrupted"  # the outcome for every other exit code, which is 128+n after signal n
EXIT_CODES = {
    0: ExitCode("succeeded", "success"),
    1: ExitCode("failed", "a migration failed (plan: would fail)"),
    2: ExitCode("misconfigured", "invalid configuration"),
    3: ExitCode("unreachable", "Postgres is unavailable; a later run may succeed"),
    4: ExitCode("locked", "timed out waiting for the migration lock"),
    5: ExitCode("refused", "Postgres rejected the login or a privilege is missing; fix it first"),
    6: ExitCode("connection_lost", "connection lost and not re-established"),
    10: ExitCode("pending", "check: migrations are pending"),
    CRASHED: ExitCode("crashed", "internal error: a bug in pg-predeploy"),
}


class StorageError(Exception):
    """Something other than a failed migration ended the run.

    `code` is a stable identifier for programs, `exit_code` is the exit status of the process, and `fields` are extra
    fields on the summary line. The message is meant for people. It reveals at most the host and port from the
    connection string.
    """

    code = "STORAGE_ERROR"
    exit_code = CRASHED
    fields: Mapping[str, Any] = {}


class ConfigurationError(StorageError):
    """A setting is missing or malformed; retrying does not help."""

    code = "STORAGE_CONFIGURATION"
    exit_code = 2


class DatabaseUrlMissing(ConfigurationError):
    """No connection string is configured."""

    code = "STORAGE_DB_URL_MISSING"


class DatabaseUrlInvalid(ConfigurationError):
    """The connection string cannot be parsed, or libpq would misinterpret it."""

    code = "STORAGE_DB_URL_INVALID"


class PostgresUnavailable(StorageError):
    """The server is unreachable or not accepting connections yet; a later attempt may succeed.

    `reason` is a fixed keyword for the log: `refused`, `dns`, `timeout`, `starting_up`, ...
    """

    code = "STORAGE_DB_UNAVAILABLE"
    exit_code = 3

    def __init__(self, message: str, reason: str = "unknown") -> None:
        super().__init__(message)
        self.reason = reason


class LockTimeout(StorageError):
    """Another runner held the migration lock during the entire wait.

    `statement` is the SQL that terminates the session of that runner.
    """

    code = "STORAGE_LOCK_TIMEOUT"
    exit_code = 4

    def __init__(self, message: str, statement: str | None = None) -> None:
        super().__init__(message)
        self.fields = {"statement": statement} if statement else {}


class PostgresRefused(StorageError):
    """The server rejected the login, or a privilege is missing. Retrying does not help until an operator fixes it.

    `reason` is a fixed keyword for the log: `authentication`, `unknown_database`, `tls`, `privilege`, ...
    """

    code = "STORAGE_DB_REFUSED"
    exit_code = 5

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectionLost(StorageError):
    """The connection was lost and not re-established; every committed migration is recorded in `_migrations`."""

    code = "STORAGE_DB_CONNECTION_LOST"
    exit_code = 6
