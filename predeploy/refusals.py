"""Why a login failed, in words of our own: libpq's text may quote the connection string and is never shown.

At connect time there is no SQLSTATE to go by, only English texts of libpq and the server. What is not known to be
permanent is taken as passing and tried again until the wait is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.errors import PostgresRefused, PostgresUnavailable, StorageError

if TYPE_CHECKING:
    import psycopg

_PERMANENT = (
    ("password authentication failed", "authentication", "the server rejected the user name or the password"),
    ("no password supplied", "authentication", "the server wants a password and the connection string has none"),
    ("authentication failed", "authentication", "the server rejected our authentication"),
    (
        "authentication method requirement",
        "authentication",
        "the server's authentication method is not the required one",
    ),
    ("channel binding", "authentication", "the server offers no channel binding, but it is required"),
    ("no pg_hba.conf entry", "not_admitted", "pg_hba.conf admits no such user, database, address or encryption"),
    ("pg_hba.conf rejects", "not_admitted", "pg_hba.conf rejects this user, database, address or encryption"),
    ("is not permitted to log in", "not_admitted", "the role has no LOGIN attribute"),
    ("permission denied for database", "privilege", "the role has no CONNECT privilege on the database"),
    ("certificate verify failed", "tls", "the server's certificate is not signed by a trusted authority"),
    ("does not match host name", "tls", "the server's certificate is for another host name"),
    ("root certificate file", "tls", "the file of root certificates (sslrootcert) is missing or unreadable"),
    ("certificate file", "tls", "the client certificate file (sslcert) is missing or unreadable"),
    ("private key file", "tls", "the client key file (sslkey) is missing, unreadable or too open"),
    ("server does not support SSL", "tls", "the server does not offer TLS, but sslmode asks for it"),
    ("unsupported startup parameter", "startup_parameter", "the pooler rejects a parameter of the connection string"),
    ("unrecognized configuration parameter", "startup_parameter", "an option in the connection string is unknown"),
    ('FATAL:  role "', "unknown_role", "the role does not exist"),
    ('FATAL:  database "', "unknown_database", "the database does not exist"),
)
# What a server says to a healthy session that it cannot serve now: resources, an operator, another session's lock.
_PASSING_CLASSES = ("08", "25006", "40", "53", "55P03", "57", "58")
_PASSING = (
    ("starting up", "starting_up", "the server is starting up"),
    ("not yet accepting connections", "recovery", "the server is recovering"),
    ("not currently accepting connections", "not_accepting", "the database does not accept connections"),
    ("not accepting connections", "not_accepting", "the server does not accept connections"),
    ("recovery", "recovery", "the server is recovering"),
    ("shutting down", "shutting_down", "the server is shutting down"),
    ("too many", "too_many_clients", "the server has no connection to spare"),
    ("connection slots are reserved", "too_many_clients", "the server has no connection to spare"),
    ("no more connections allowed", "too_many_clients", "the pooler has no connection to spare"),
    ("Connection refused", "refused", "connection refused: nothing listens there yet"),
    ("No such file or directory", "refused", "there is no such socket yet"),
    ("translate host name", "dns", "the host name cannot be resolved"),
    ("resolve host", "dns", "the host name cannot be resolved"),
    ("Name or service not known", "dns", "the host name cannot be resolved"),
    ("Temporary failure in name resolution", "dns", "the host name cannot be resolved"),
    ("No route to host", "unreachable", "the network has no route to the host"),
    ("Network is unreachable", "unreachable", "the network is unreachable"),
    ("timeout expired", "timeout", "no answer within the connect timeout"),
    ("timed out", "timeout", "no answer from the host"),
    ("closed the connection unexpectedly", "closed", "the server closed the connection during login"),
    ("Connection reset", "closed", "the connection was reset during login"),
)


def explain(error: psycopg.OperationalError) -> PostgresUnavailable | PostgresRefused:
    """Return the failed login as an error that tells whether waiting can help; a permanent text wins over a passing."""
    text = str(error)
    for fragment, reason, sentence in _PERMANENT:
        if fragment in text and not (reason.startswith("unknown_") and "does not exist" not in text):
            return PostgresRefused(f"{sentence[0].upper()}{sentence[1:]}.", reason)
    for fragment, reason, sentence in _PASSING:
        if fragment in text:
            return PostgresUnavailable(sentence, reason)
    return PostgresUnavailable("the login failed for a reason that we do not know", "unknown")


def explain_statement(error: psycopg.Error) -> StorageError:
    """Return the server's refusal of one of our own statements as an error that tells whether a later run can help."""
    from predeploy.disclosure import disclose  # only where something fails

    text = f"The server refused a statement of ours: {disclose(error.diag)} (SQLSTATE {error.sqlstate})."
    if (error.sqlstate or "").startswith(_PASSING_CLASSES):
        return PostgresUnavailable(text, "statement")
    return PostgresRefused(text, "statement")
