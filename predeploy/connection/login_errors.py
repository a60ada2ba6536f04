"""Why a login failed, in words of our own: libpq's text may quote the connection string and is never shown.

libpq tells by a text only. What it says itself is English; what the server says may be in any language, and then its
SQLSTATE is asked for. What is not known to be permanent is taken as passing and tried again until the wait is over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import ProgrammingError

from predeploy.errors import DatabaseUrlInvalid, PostgresRefused, PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

    from predeploy.connection.login_error_table import Cause

# What a server says to a healthy session that it cannot serve now: resources, an operator, another session's lock.
_PASSING_CLASSES = ("08", "25006", "40", "53", "55P03", "57", "58")
_OF_ONE_HOST = {"tls", "not_admitted", "startup_parameter"}  # another host may well accept us
_ATTEMPT = r"^- host: (?P<host>.+?), port: (?P<port>.+?), hostaddr: (?P<hostaddr>.+?): "
_BAD_OPTION = "connection is bad: (?:invalid |weak |could not match |definition of service|service file)"


def explain(error: psycopg.Error | UnicodeError) -> PostgresUnavailable | PostgresRefused | DatabaseUrlInvalid:
    """Return the failed login, or first statement, as an error that tells whether waiting can help.

    A text in a language that we do not know costs one more login, for its SQLSTATE. Of several hosts one that refuses
    our credentials or our database speaks for all; the others' objections have to be unanimous to end the wait.
    """
    if isinstance(error, UnicodeError):  # psycopg resolves names by Python, which encodes them first
        return DatabaseUrlInvalid("The host name has an empty part, or one of more than 63 characters.")
    text = str(error)
    if re.match(_BAD_OPTION, text) or (isinstance(error, ProgrammingError) and not error.sqlstate):
        return DatabaseUrlInvalid("An option of the connection string, a PG* variable or a service is not valid.")
    if error.sqlstate:
        return _by_sqlstate(text, error.sqlstate, error.diag.source_function).error()
    parameters = {o.keyword: o.val for o in error.pgconn.info if o.val is not None} if error.pgconn else {}
    found = list(re.finditer(_ATTEMPT, text, re.MULTILINE))
    if not found:
        return _cause(text, parameters).error()
    from ast import literal_eval

    hosts: dict[str, list[Cause]] = {}
    ends = [*(attempt.start() for attempt in found[1:]), len(text)]
    for attempt, end in zip(found, ends, strict=True):
        place = {key.encode(): literal_eval(name) for key, name in attempt.groupdict().items()}
        named = {key: name.encode() for key, name in place.items() if name}
        hosts.setdefault(attempt["host"] + attempt["port"], []).append(
            _cause(text[attempt.end() : end], {**parameters, **named})
        )
    return _of_several(hosts.values()).error()


def _cause(text: str, parameters: Mapping[bytes, bytes]) -> Cause:
    from predeploy.connection.login_error_table import UNKNOWN, by_text  # here, as a login that works needs none of it

    if (cause := by_text(text)) or not parameters:
        return cause or UNKNOWN
    from predeploy.connection.login_sqlstate import refused_with

    causes = [_by_sqlstate("", sqlstate, function) for sqlstate, function in refused_with(parameters)]
    return _first(causes) if causes else UNKNOWN


def _by_sqlstate(text: str, sqlstate: str, function: str | None) -> Cause:
    from predeploy.connection.login_error_table import UNKNOWN, by_sqlstate, by_text

    return by_text(text) or by_sqlstate(sqlstate, function) or UNKNOWN


def _of_several(hosts: Iterable[list[Cause]]) -> Cause:
    """Return what counts of each host's addresses, and then of all hosts."""
    causes = [_first(addresses) for addresses in hosts]
    passing = [cause for cause in causes if not cause.permanent]
    shared = [cause for cause in causes if cause.permanent and cause.reason not in _OF_ONE_HOST]
    return (shared or passing or causes)[0]


def _first(causes: list[Cause]) -> Cause:
    return next((cause for cause in causes if cause.permanent), causes[0])


def explain_statement(error: psycopg.Error) -> StorageError:
    """Return the server's refusal of one of our own statements as an error that tells whether a later run can help."""
    from predeploy.redaction.server_message import disclose  # only where something fails

    text = f"The server refused a statement of ours: {disclose(error.diag)} (SQLSTATE {error.sqlstate})."
    if (error.sqlstate or "").startswith(_PASSING_CLASSES):
        return PostgresUnavailable(text, "statement")
    return PostgresRefused(text, "statement")
