"""The exit codes, and the exceptions that end a run: one for each outcome that an operator treats differently.

A migration that fails is not one of them: it is an expected outcome and is returned in `MigrationResult.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class ExitCode(NamedTuple):
    """The word in the field `outcome` of the last line, and the text in --help."""

    outcome: str
    meaning: str


CRASHED = 70
INTERRUPTED = "interrupted"  # the outcome of every other code, which is 128+n after signal n
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
    """Something other than a migration ended the run.

    `code` is a constant for programs, `exit_code` the process's exit status, `fields` are more fields of the last line.
    The text is for people. Of the connection string it contains at most the host and the port.
    """

    code = "STORAGE_ERROR"
    exit_code = CRASHED
    fields: Mapping[str, Any] = {}


class ConfigurationError(StorageError):
    """A setting is missing or malformed; running again changes nothing."""

    code = "STORAGE_CONFIGURATION"
    exit_code = 2


class DatabaseUrlMissing(ConfigurationError):
    """No connection string was given."""

    code = "STORAGE_DB_URL_MISSING"


class DatabaseUrlInvalid(ConfigurationError):
    """The connection string cannot be read, or libpq would misread it."""

    code = "STORAGE_DB_URL_INVALID"


class PostgresUnavailable(StorageError):
    """The server cannot be reached, or accepts no connections yet; a later try may succeed.

    `reason` is a constant word for the log: `refused`, `dns`, `timeout`, `starting_up`, ...
    """

    code = "STORAGE_DB_UNAVAILABLE"
    exit_code = 3

    def __init__(self, message: str, reason: str = "unknown") -> None:
        super().__init__(message)
        self.reason = reason


class LockTimeout(StorageError):
    """Another runner held the migration lock for the whole wait; `statement` is the SQL that would end its session."""

    code = "STORAGE_LOCK_TIMEOUT"
    exit_code = 4

    def __init__(self, message: str, statement: str | None = None) -> None:
        super().__init__(message)
        self.fields = {"statement": statement} if statement else {}


class PostgresRefused(StorageError):
    """The server rejected the run permanently: credentials, database, TLS or privileges have to change first.

    `reason` is a constant word for the log: `authentication`, `unknown_database`, `tls`, `privilege`, ...
    """

    code = "STORAGE_DB_REFUSED"
    exit_code = 5

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectionLost(StorageError):
    """The connection was lost and not re-established; every committed migration has its row in `_migrations`."""

    code = "STORAGE_DB_CONNECTION_LOST"
    exit_code = 6
