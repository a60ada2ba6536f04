"""What can stand in a run's way: one exception per way out that an operator treats differently.

A migration that fails is not here: it is an expected outcome and travels as data in `MigrationResult.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class StorageError(Exception):
    """Something between us and the database made the run impossible.

    `code` is a constant for programs, `exit_code` the process's exit status, `fields` what the last line says besides;
    the text is for people and never holds a part of the connection string other than host and port.
    """

    code = "STORAGE_ERROR"
    exit_code = 70
    fields: Mapping[str, Any] = {}


class ConfigurationError(StorageError):
    """A setting is missing or malformed; running again changes nothing."""

    code = "STORAGE_CONFIGURATION"
    exit_code = 2


class DatabaseUrlMissing(ConfigurationError):
    """No connection string was given."""

    code = "STORAGE_DB_URL_MISSING"


class DatabaseUrlInvalid(ConfigurationError):
    """The connection string cannot be read, or would be read as something else than was meant."""

    code = "STORAGE_DB_URL_INVALID"


class PostgresUnavailable(StorageError):
    """The server cannot be reached or does not accept us yet; a later try may succeed.

    `reason` is a constant word for the log: `refused`, `dns`, `timeout`, `starting_up`, ...
    """

    code = "STORAGE_DB_UNAVAILABLE"
    exit_code = 3

    def __init__(self, message: str, reason: str = "unknown") -> None:
        super().__init__(message)
        self.reason = reason


class LockTimeout(StorageError):
    """Another runner held the advisory lock for the whole wait; `statement` is what would end its session."""

    code = "STORAGE_LOCK_TIMEOUT"
    exit_code = 4

    def __init__(self, message: str, statement: str | None = None) -> None:
        super().__init__(message)
        self.fields = {"statement": statement} if statement else {}


class PostgresRefused(StorageError):
    """The server refused us for good: credentials, database, TLS or privileges have to change first.

    `reason` is a constant word for the log: `authentication`, `unknown_database`, `tls`, `privilege`, ...
    """

    code = "STORAGE_DB_REFUSED"
    exit_code = 5

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectionLost(StorageError):
    """The connection broke during the run; every committed migration has its row in `_migrations`."""

    code = "STORAGE_DB_CONNECTION_LOST"
    exit_code = 6
