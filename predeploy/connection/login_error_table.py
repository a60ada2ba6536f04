"""Why logins fail: the reasons, and the SQLSTATEs and texts by which they are known.

A permanent reason comes with its remedy. Texts are English: libpq's own, PgBouncer's and an English server's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from predeploy.errors import PostgresRefused, PostgresUnavailable


@dataclass(frozen=True, slots=True)
class LoginFailure:
    """A constant word for the log and a sentence: the fact and its remedy, or the fact alone where waiting may help."""

    reason: str
    words: str
    permanent: bool = True

    def error(self) -> PostgresRefused | PostgresUnavailable:
        """Return the exception."""
        if self.permanent:
            return PostgresRefused(f"{self.words}.", self.reason)
        return PostgresUnavailable(self.words, self.reason)


def _retryable(reason: str, words: str) -> LoginFailure:
    return LoginFailure(reason, words, permanent=False)


PASSWORD = LoginFailure(
    "authentication", "The server rejected the user name or the password: correct them in the connection string"
)
NO_PASSWORD = LoginFailure(
    "authentication",
    "The server wants a password and the connection string has none: add it, or set PGPASSWORD or PGPASSFILE",
)
AUTHENTICATION = LoginFailure(
    "authentication",
    "The server rejected our authentication: correct the user in the connection string, "
    "or the method that pg_hba.conf asks of it",
)
METHOD = LoginFailure(
    "authentication",
    "The server's authentication method is not what require_auth allows: change that, or the method in pg_hba.conf",
)
BINDING = LoginFailure(
    "authentication",
    "The server offers no channel binding: have it use TLS and scram-sha-256, or drop channel_binding=require",
)
NOT_ADMITTED = LoginFailure(
    "not_admitted",
    "The server's pg_hba.conf does not admit this user, database, address or encryption: add an entry there, "
    "or set sslmode=require where only TLS is admitted",
)
NO_LOGIN = LoginFailure(
    "role", "The role may not log in: ALTER ROLE ... LOGIN, or name another in the connection string"
)
NO_ROLE = LoginFailure("role", "The role does not exist: create it, or correct the user in the connection string")
ROLE = LoginFailure(
    "role", "The role does not exist or may not log in: CREATE or ALTER ROLE ... LOGIN, or name another to connect as"
)
NO_DATABASE = LoginFailure(
    "unknown_database", "The database does not exist: create it, or correct its name in the connection string"
)
INVALID_DATABASE = LoginFailure(
    "invalid_database", "An interrupted DROP DATABASE left the database unusable: drop it again and create it anew"
)
NO_CONNECT = LoginFailure(
    "privilege", "The role has no CONNECT privilege on the database: GRANT CONNECT ON DATABASE to it"
)
UNTRUSTED = LoginFailure(
    "tls",
    "The server's certificate is not signed by a trusted authority, or not valid now: "
    "name its authority in sslrootcert, or renew the certificate",
)
OTHER_HOST = LoginFailure(
    "tls",
    "The server's certificate is for another host name: connect by the name that it holds, "
    "or have one issued for this name",
)
NO_ROOT = LoginFailure(
    "tls", "The file of root certificates is missing or unreadable: put it where sslrootcert says, or correct that"
)
NO_CERTIFICATE = LoginFailure(
    "tls", "The client's certificate or key is missing, unreadable or open to others: correct sslcert and sslkey"
)
CERTIFICATE_WANTED = LoginFailure(
    "tls", "The server does not accept our TLS: give it the certificate that it wants in sslcert and sslkey"
)
PROTOCOL = LoginFailure(
    "tls", "The server and we share no version of TLS: correct ssl_min_protocol_version and ssl_max_protocol_version"
)
NO_TLS = LoginFailure("tls", "The server does not offer TLS: switch it on there, or ask for less by sslmode")
TLS_WANTED = LoginFailure("tls", "The server wants TLS: set sslmode=require or stricter")
PARAMETER = LoginFailure(
    "startup_parameter",
    "The server or the pooler rejects a parameter of the connection string: drop it from options, or correct it",
)

NOT_READY = _retryable("not_accepting", "the server is starting up, shutting down or recovering")
STARTING = _retryable("starting_up", "the server is starting up")
RECOVERY = _retryable("recovery", "the server is recovering")
CLOSED_DATABASE = _retryable("not_accepting", "the database does not accept connections")
SHUTTING = _retryable("shutting_down", "the server is shutting down")
TOO_MANY = _retryable("too_many_clients", "the server has no connection to spare")
RESOURCES = _retryable("resources", "the server lacks memory, disk space or files")
READ_ONLY = _retryable("read_only", "the server is read-only")
ATTRIBUTES = _retryable("session_attrs", "no server is yet what target_session_attrs asks for")
POOLER = _retryable("pooler", "the pooler has no connection to its server yet")
REFUSED = _retryable("refused", "connection refused: nothing listens there yet")
NO_SOCKET = _retryable("refused", "there is no such socket yet")
DNS = _retryable("dns", "the host name cannot be resolved")
NO_ROUTE = _retryable("unreachable", "the network has no route to the host")
TIMEOUT = _retryable("timeout", "no answer from the host in time")
HUNG_UP = _retryable("closed", "the server closed the connection during login")
UNKNOWN = _retryable("unknown", "the login failed for a reason that we do not know")

# The first that matches wins; names are cut out of the texts before.
_TEXTS = (
    ("password authentication failed", PASSWORD),
    ("no such user", PASSWORD),  # PgBouncer
    ("no password supplied", NO_PASSWORD),
    ("authentication failed", AUTHENTICATION),
    ("auth failed", AUTHENTICATION),  # PgBouncer
    ("login rejected", AUTHENTICATION),  # PgBouncer
    ("authentication method requirement", METHOD),
    ("channel binding", BINDING),
    ("no pg_hba.conf entry", NOT_ADMITTED),
    ("pg_hba.conf rejects", NOT_ADMITTED),
    ("is not permitted to log in", NO_LOGIN),
    ("permission denied for database", NO_CONNECT),
    ("requires a valid client certificate", CERTIFICATE_WANTED),
    ("client certificate required", CERTIFICATE_WANTED),  # PgBouncer
    ("certificate verify failed", UNTRUSTED),
    ("does not match host name", OTHER_HOST),
    ("root certificate file", NO_ROOT),
    ("certificate file", NO_CERTIFICATE),
    ("private key file", NO_CERTIFICATE),
    ("alert certificate required", CERTIFICATE_WANTED),
    ("alert unknown ca", CERTIFICATE_WANTED),
    ("alert bad certificate", CERTIFICATE_WANTED),
    ("alert certificate expired", CERTIFICATE_WANTED),
    ("alert protocol version", PROTOCOL),
    ("unsupported protocol", PROTOCOL),
    ("server does not support SSL", NO_TLS),
    ("SSL required", TLS_WANTED),  # PgBouncer
    ("TLS connection required", TLS_WANTED),  # PgBouncer
    ("unsupported startup parameter", PARAMETER),
    ("unrecognized configuration parameter", PARAMETER),
    ("invalid value for parameter", PARAMETER),
    ("permission denied to set parameter", PARAMETER),
    ("cannot connect to invalid database", INVALID_DATABASE),
    ("role ... does not exist", NO_ROLE),
    ("database ... does not exist", NO_DATABASE),
    ("no such database", NO_DATABASE),  # PgBouncer
    ("starting up", STARTING),
    ("not yet accepting connections", RECOVERY),
    ("not currently accepting connections", CLOSED_DATABASE),
    ("not accepting connections", NOT_READY),
    ("does not allow connections", CLOSED_DATABASE),  # PgBouncer
    ("recovery", RECOVERY),
    ("shutting down", SHUTTING),
    ("during database shutdown", SHUTTING),
    ("too many", TOO_MANY),
    ("connection slots are reserved", TOO_MANY),
    ("no more connections allowed", TOO_MANY),  # PgBouncer
    ("session is read-only", READ_ONLY),
    ("server is in hot standby mode", READ_ONLY),
    ("session is not read-only", ATTRIBUTES),
    ("server is not in hot standby mode", ATTRIBUTES),
    ("query_wait_timeout", POOLER),
    ("client_login_timeout", POOLER),
    ("cannot connect to server", POOLER),
    ("server login has been failing", POOLER),
    ("server_login_retry", POOLER),
    ("Connection refused", REFUSED),
    ("No such file or directory", NO_SOCKET),
    ("translate host name", DNS),
    ("resolve host", DNS),
    ("Name or service not known", DNS),
    ("Temporary failure in name resolution", DNS),
    ("No route to host", NO_ROUTE),
    ("Network is unreachable", NO_ROUTE),
    ("timeout expired", TIMEOUT),
    ("timed out", TIMEOUT),
    ("authentication due to timeout", TIMEOUT),
    ("closed the connection unexpectedly", HUNG_UP),
    ("Connection reset", HUNG_UP),
)
# An SQLSTATE or the beginning of one, and where one code means several things the function in the server's source.
_CODES = (
    ("28P01", "", PASSWORD),
    ("28", "ClientAuthentication", NOT_ADMITTED),
    ("28", "InitializeSessionUserId", ROLE),
    ("28", "", AUTHENTICATION),
    ("42501", "CheckMyDatabase", NO_CONNECT),
    ("42501", "InitPostgres", SHUTTING),  # "must be superuser to connect during database shutdown"
    ("42501", "", PARAMETER),  # one that only a superuser may set
    ("42704", "", PARAMETER),
    ("22023", "", PARAMETER),
    ("3D000", "", NO_DATABASE),
    ("55000", "InitPostgres", INVALID_DATABASE),
    ("55000", "", CLOSED_DATABASE),
    ("57P03", "", NOT_READY),
    ("57P", "", SHUTTING),
    ("57014", "", TIMEOUT),
    ("53300", "", TOO_MANY),
    ("53", "", RESOURCES),
    ("58", "", RESOURCES),
    ("25006", "", READ_ONLY),
)
# Quoted in a text, and free to read like any text: names in every language's quotation marks, and Python's.
_NAME = re.compile(r'"[^"\n]*"|»[^«\n]*«|«[^»\n]*»|>>.*?<<|<<.*?>>|(?<=host )\'[^\'\n]*\'')


def by_text(text: str) -> LoginFailure | None:
    """Return the failure that an English text describes; None for an unknown text."""
    text = _NAME.sub("...", text)
    return next((failure for fragment, failure in _TEXTS if fragment in text), None)


def by_sqlstate(sqlstate: str, function: str | None = None) -> LoginFailure | None:
    """Return the failure that a SQLSTATE from a function of the server's source stands for; None for an unknown one."""
    return next(
        (failure for code, where, failure in _CODES if sqlstate.startswith(code) and where in {"", function}),
        None,
    )
