"""Exit codes and error codes are a contract: podFailurePolicy and other programs depend on them."""

from __future__ import annotations

import pytest

from predeploy import errors
from predeploy.errors import (
    EXIT_CODES,
    ConfigurationError,
    ConnectionLost,
    DatabaseUrlInvalid,
    DatabaseUrlMissing,
    LockTimeout,
    PostgresRefused,
    PostgresUnavailable,
    StorageError,
)

CONTRACT = [
    (StorageError("text"), "STORAGE_ERROR", 70),
    (ConfigurationError("text"), "STORAGE_CONFIGURATION", 2),
    (DatabaseUrlMissing("text"), "STORAGE_DB_URL_MISSING", 2),
    (DatabaseUrlInvalid("text"), "STORAGE_DB_URL_INVALID", 2),
    (PostgresUnavailable("text"), "STORAGE_DB_UNAVAILABLE", 3),
    (LockTimeout("text"), "STORAGE_LOCK_TIMEOUT", 4),
    (PostgresRefused("text", "privilege"), "STORAGE_DB_REFUSED", 5),
    (ConnectionLost("text"), "STORAGE_DB_CONNECTION_LOST", 6),
]


@pytest.mark.parametrize(("error", "code", "exit_code"), CONTRACT, ids=lambda value: type(value).__name__)
def test_every_error_has_a_code_and_an_exit_code(error: StorageError, code: str, exit_code: int) -> None:
    assert (error.code, error.exit_code, str(error)) == (code, exit_code, "text")


def test_every_error_is_covered_by_the_contract() -> None:
    exceptions = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert exceptions == {type(error) for error, _, _ in CONTRACT}


def test_every_exit_code_has_an_outcome() -> None:
    assert {code: known.outcome for code, known in EXIT_CODES.items()} == {
        0: "succeeded",
        1: "failed",
        2: "misconfigured",
        3: "unreachable",
        4: "locked",
        5: "refused",
        6: "connection_lost",
        10: "pending",
        70: "crashed",
    }
    assert {error.exit_code for error, _, _ in CONTRACT} <= EXIT_CODES.keys()


def test_a_lock_timeout_contains_the_statement_that_terminates_the_holder() -> None:
    assert LockTimeout("text", "SELECT 1").fields == {"statement": "SELECT 1"}
    assert LockTimeout("text").fields == {}


def test_a_missing_or_malformed_url_is_a_configuration_error() -> None:
    assert issubclass(DatabaseUrlMissing, ConfigurationError)
    assert issubclass(DatabaseUrlInvalid, ConfigurationError)


def test_server_errors_have_a_reason() -> None:
    assert PostgresRefused("text", "tls").reason == "tls"
    assert PostgresUnavailable("text", "dns").reason == "dns"
    assert PostgresUnavailable("text").reason == "unknown"
