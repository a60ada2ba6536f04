"""Why a login failed, in words of our own: libpq's text may quote the connection string and is never shown.

libpq tells by a text only. What it says itself is English; what the server says may be in any language, and then its
SQLSTATE is asked for. What is not known to be permanent is taken as passing and tried again until the wait is over.
"""

from __future__ import annotations

import re
from ast import literal_eval
from typing import TYPE_CHECKING

from psycopg import ProgrammingError

from predeploy.causes import UNKNOWN, Cause, by_sqlstate, by_text
from predeploy.errors import DatabaseUrlInvalid, PostgresRefused, PostgresUnavailable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

# What a server says to a healthy session that it cannot serve now: resources, an operator, another session's lock.
_PASSING_CLASSES = ("08", "25006", "40", "53", "55P03", "57", "58")
_OF_ONE_HOST = {"tls", "not_admitted", "startup_parameter"}  # another host may well accept us
_ATTEMPT = re.compile(r"^- host: (.+?), port: (.+?), hostaddr: (.+?): ", re.MULTILINE)
_BAD_OPTION = re.compile(r"connection is bad: (?:invalid |weak |could not match |definition of service|service file)")


def explain(error: psycopg.Error | UnicodeError) -> PostgresUnavailable | PostgresRefused | DatabaseUrlInvalid:
    """Return the failed login, or first statement, as an error that tells whether waiting can help.

    A text in a language that we do not know costs one more login, for its SQLSTATE. Of several hosts one that refuses
    our credentials or our database speaks for all; the others' objections have to be unanimous to end the wait.
    """
    if isinstance(error, UnicodeError):  # psycopg resolves names by Python, which encodes them first
        return DatabaseUrlInvalid("The host name has an empty part, or one of more than 63 characters.")
    text = str(error)
    if _BAD_OPTION.match(text) or (isinstance(error, ProgrammingError) and not error.sqlstate):
        return DatabaseUrlInvalid("An option of the connection string, a PG* variable or a service is not valid.")
    if error.sqlstate:
        return (by_text(text) or by_sqlstate(error.sqlstate, error.diag.source_function) or UNKNOWN).error()
    parameters = {o.keyword: o.val for o in error.pgconn.info if o.val is not None} if error.pgconn else {}
    found = list(_ATTEMPT.finditer(text))
    if not found:
        return _cause(text, parameters).error()
    hosts: dict[str, list[Cause]] = {}
    ends = [*(attempt.start() for attempt in found[1:]), len(text)]
    for attempt, end in zip(found, ends, strict=True):
        names = {
            key: literal_eval(name) for key, name in zip(("host", "port", "hostaddr"), attempt.groups(), strict=True)
        }
        place = {key.encode(): value.encode() for key, value in names.items() if value}
        hosts.setdefault(attempt[1] + attempt[2], []).append(_cause(text[attempt.end() : end], {**parameters, **place}))
    return _of_several(hosts.values()).error()


def _cause(text: str, parameters: Mapping[bytes, bytes]) -> Cause:
    if cause := by_text(text):
        return cause
    if not parameters:
        return UNKNOWN
    from predeploy.sqlstate import refused_with  # for strangers only

    causes = [by_sqlstate(code, function) or UNKNOWN for code, function in refused_with(parameters)]
    return _first(causes) if causes else UNKNOWN


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
    text = f"The server refused a statement of ours: {error.diag.message_primary} (SQLSTATE {error.sqlstate})."
    if (error.sqlstate or "").startswith(_PASSING_CLASSES):
        return PostgresUnavailable(text, "statement")
    return PostgresRefused(text, "statement")
