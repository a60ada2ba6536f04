"""Why a login failed, and whether waiting can help.

libpq describes a failed login only in a text, which may quote the connection string and is never shown. Connections
that this program starts are verbose, so that the text holds the SQLSTATE (`FATAL:  28P01: ...`) and the function in the
server's source (`LOCATION:  auth_failed, ...`). The SQLSTATE decides, in every language. An English text is more
precise, and decides alone if there is no SQLSTATE: in errors of libpq itself, of poolers, or of another libpq.
A failure that is not known to be permanent is retried until the timeout.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from predeploy.errors import DatabaseUrlInvalid, PostgresRefused, PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from predeploy.connection.login_error_table import LoginFailure

# SQLSTATEs of a server that cannot serve a healthy session now: resources, an operator, another session's lock.
_RETRYABLE = ("08", "25006", "40", "53", "55P03", "57", "58")
_OF_ONE_HOST = {"tls", "not_admitted", "startup_parameter"}  # another host may accept the login
_ATTEMPT = r"^- host: (?P<host>.+?), port: (?P<port>.+?), hostaddr: .+?: "  # psycopg's summary of several
_BAD_OPTION = (
    "(?:connection is bad: )?(?:invalid |weak |could not match |definition of service|service file|bad value for )"
)
_VERBOSE = r"failed: [^:\n]{1,40}:  ([0-9A-Z]{5}): (?:(?!^connection to server).)*?(?:^LOCATION:  (\w+)|\Z)"


def classify_login_error(error: Exception) -> PostgresUnavailable | PostgresRefused | DatabaseUrlInvalid:
    """Return a failed login, or a failed first statement, as the error that ends the run or is retried.

    If one of several hosts rejects the credentials or the database, the login fails; other permanent failures end the
    wait only if every host has one.
    """
    if isinstance(error, UnicodeError):  # psycopg resolves host names by Python, which encodes them first
        return DatabaseUrlInvalid("The host name has an empty label, or one with more than 63 characters.")
    text = str(error)
    if re.match(_BAD_OPTION, text):
        return DatabaseUrlInvalid("The connection string, a PG* variable or a service has an invalid option.")
    if sqlstate := getattr(error, "sqlstate", None):
        return _classify(text, [(sqlstate, error.diag.source_function)]).error()  # type: ignore[attr-defined]
    found = list(re.finditer(_ATTEMPT, text, re.MULTILINE))
    if not found:
        return _classify(text, _sqlstates_in(text)).error()
    hosts: dict[str, list[LoginFailure]] = {}
    ends = [*(attempt.start() for attempt in found[1:]), len(text)]
    for attempt, end in zip(found, ends, strict=True):
        part = text[attempt.end() : end]
        hosts.setdefault(attempt["host"] + attempt["port"], []).append(_classify(part, _sqlstates_in(part)))
    return _of_several(hosts.values()).error()


def _sqlstates_in(text: str) -> list[tuple[str, str | None]]:
    """Return the SQLSTATE of each attempt with its function; libpq tries twice if TLS is optional."""
    found = re.findall(_VERBOSE, text, re.MULTILINE | re.DOTALL)
    return [(sqlstate, function or None) for sqlstate, function in found]


def _classify(text: str, sqlstates: list[tuple[str, str | None]]) -> LoginFailure:
    from predeploy.connection.login_error_table import UNKNOWN, by_sqlstate, by_text  # only where a login fails

    precise = by_text(text)
    decided = list(filter(None, (by_sqlstate(*sqlstate) for sqlstate in sqlstates)))
    if not decided:
        return precise or UNKNOWN
    failure = _permanent_first(decided)
    return precise if precise and precise.permanent == failure.permanent else failure


def _of_several(hosts: Iterable[list[LoginFailure]]) -> LoginFailure:
    """Return the failure that counts of each host's addresses, and then of all hosts."""
    failures = [_permanent_first(addresses) for addresses in hosts]
    retryable = [failure for failure in failures if not failure.permanent]
    shared = [failure for failure in failures if failure.permanent and failure.reason not in _OF_ONE_HOST]
    return (shared or retryable or failures)[0]


def _permanent_first(failures: list[LoginFailure]) -> LoginFailure:
    return next((failure for failure in failures if failure.permanent), failures[0])


def classify_statement_error(error: psycopg.Error) -> StorageError:
    """Return the failure of an internal statement as a retryable or permanent error."""
    from predeploy.redaction.server_message import redact_message  # only where something fails

    text = f"Postgres rejected an internal statement: {redact_message(error.diag)} (SQLSTATE {error.sqlstate})."
    if (error.sqlstate or "").startswith(_RETRYABLE):
        return PostgresUnavailable(text, "statement")
    return PostgresRefused(text, "statement")
