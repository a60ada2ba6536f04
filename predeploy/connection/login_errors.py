"""Classify login errors: why a login failed, and whether retrying can help.

libpq reports a failed login only as text. The text may quote the connection string, so it is never shown. This program
enables verbose errors, so the text includes the SQLSTATE (`FATAL:  28P01: ...`) and the function in the server's source
(`LOCATION:  auth_failed, ...`). The SQLSTATE does not depend on the language, so it decides whether a failure is
permanent. English text can be more specific, and is the only source for errors from libpq itself, from poolers, or from
a libpq without verbose errors. A failure that is not known to be permanent is retried until the timeout.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from predeploy.connection.passfile import describe_passfile
from predeploy.errors import DatabaseUrlInvalid, PostgresRefused, PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from predeploy.connection.dsn import Dsn
    from predeploy.connection.login_error_table import LoginFailure

# SQLSTATEs of temporary problems, such as lack of resources, operator intervention or another session's lock.
_RETRYABLE = ("08", "25006", "40", "53", "55P03", "57", "58")
_OF_ONE_HOST = {"tls", "protocol", "gss", "not_admitted", "startup_parameter"}  # another host may accept the login
_ATTEMPT = r"^- host: (?P<host>.+?), port: (?P<port>.+?), hostaddr: .+?: "  # in psycopg's list of attempts
_BAD_OPTION = (
    "(?:connection is bad: )?(?:invalid |weak |could not match |cannot match |definition of service|service file"
    '|bad value for |require_auth method |"min_protocol_version" is |gssencmode value )'
    '|(?!.*FATAL:).*invalid integer value ".*" for connection option '
)
_VERBOSE = r"failed: [^:\n]{1,40}:  ([0-9A-Z]{5}): (?:(?!^connection to server).)*?(?:^LOCATION:  (\w+)|\Z)"


def classify_login_error(
    error: Exception, dsn: Dsn | None = None
) -> PostgresUnavailable | PostgresRefused | DatabaseUrlInvalid:
    """Convert the error of a failed login, or of a failed first statement, into a permanent or retryable error.

    With `dsn`, the message also names what is missing from the connection string or its password file.
    With several hosts, the failure is permanent if any host rejects the credentials or the database, or if all hosts
    fail permanently.
    """
    if isinstance(error, UnicodeError):  # psycopg resolves host names in Python, which encodes them first
        return DatabaseUrlInvalid("The host name has an empty label or a label with more than 63 characters.")
    text = str(error)
    if re.match(_BAD_OPTION, text):
        from predeploy.connection import option_values

        return DatabaseUrlInvalid(option_values.describe(text))
    if sqlstate := getattr(error, "sqlstate", None):
        return _classify(text, [(sqlstate, error.diag.source_function)]).error()  # type: ignore[attr-defined]
    failure = _of_attempts(text)
    return (_with_details(failure, text, dsn) if dsn else failure).error()


def _of_attempts(text: str) -> LoginFailure:
    found = list(re.finditer(_ATTEMPT, text, re.MULTILINE))
    if not found:
        return _classify(text, _sqlstates_in(text))
    hosts: dict[str, list[LoginFailure]] = {}
    ends = [*(attempt.start() for attempt in found[1:]), len(text)]
    for attempt, end in zip(found, ends, strict=True):
        part = text[attempt.end() : end]
        hosts.setdefault(attempt["host"] + attempt["port"], []).append(_classify(part, _sqlstates_in(part)))
    return _of_several(hosts.values())


def _with_details(failure: LoginFailure, text: str, dsn: Dsn) -> LoginFailure:
    """Add the cause to the message: direct TLS negotiation, a missing database name or an ignored password file.

    If the cause is unknown, add the server's own message.
    """
    from predeploy.connection.login_error_table import (
        DEFAULT_DATABASE,
        DIRECT_TLS,
        HUNG_UP,
        NO_DATABASE,
        NO_PASSWORD,
        UNKNOWN,
    )

    if failure is HUNG_UP and dsn.used.get("sslnegotiation") == "direct":
        return DIRECT_TLS
    if failure is NO_DATABASE and not dsn.named.get("dbname") and dsn.used.get("dbname") == dsn.used.get("user"):
        return DEFAULT_DATABASE
    if failure is NO_PASSWORD and (words := describe_passfile(dsn.passfile, dsn.named, dsn.used)):
        return replace(failure, words=words)
    if failure is UNKNOWN:
        from predeploy.connection.login_sentence import server_sentence

        if sentence := server_sentence(text, dsn):
            return replace(failure, words=f"the login failed: {sentence}")
    return failure


def _sqlstates_in(text: str) -> list[tuple[str, str | None]]:
    """Return each attempt's SQLSTATE and server function, if any; libpq makes two attempts if TLS is optional."""
    found = re.findall(_VERBOSE, text, re.MULTILINE | re.DOTALL)
    return [(sqlstate, function or None) for sqlstate, function in found]


def _classify(text: str, sqlstates: list[tuple[str, str | None]]) -> LoginFailure:
    # only needed after a failed login
    from predeploy.connection.login_error_table import UNKNOWN, by_provider, by_sqlstate, by_text

    if failure := by_provider(text):
        return failure
    precise = by_text(text)
    decided = list(filter(None, (by_sqlstate(*sqlstate) for sqlstate in sqlstates)))
    if not decided:
        return precise or UNKNOWN
    failure = _permanent_first(decided)
    return precise if precise and precise.permanent == failure.permanent else failure


def _of_several(hosts: Iterable[list[LoginFailure]]) -> LoginFailure:
    """Return the failure to report: first choose one per host from its addresses, then one among the hosts."""
    failures = [_permanent_first(addresses) for addresses in hosts]
    retryable = [failure for failure in failures if not failure.permanent]
    shared = [failure for failure in failures if failure.permanent and failure.reason not in _OF_ONE_HOST]
    return (shared or retryable or failures)[0]


def _permanent_first(failures: list[LoginFailure]) -> LoginFailure:
    return next((failure for failure in failures if failure.permanent), failures[0])


def classify_statement_error(error: psycopg.Error) -> StorageError:
    """Convert the error of an internal statement into a retryable or permanent error."""
    from predeploy.redaction.server_message import redact_message  # only needed after a failure

    text = f"Postgres rejected an internal statement: {redact_message(error.diag)} (SQLSTATE {error.sqlstate})."
    if (error.sqlstate or "").startswith(_RETRYABLE):
        return PostgresUnavailable(text, "statement")
    return PostgresRefused(text, "statement")
