"""The reasons why logins fail, and the SQLSTATEs and error texts that identify each reason.

Each permanent failure has a remedy. The error texts are the English messages of libpq, PgBouncer and Postgres.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from predeploy.errors import PostgresRefused, PostgresUnavailable


@dataclass(frozen=True, slots=True)
class LoginFailure:
    """A fixed keyword for the log, and a message: the problem, followed by its remedy if the failure is permanent."""

    reason: str
    words: str
    permanent: bool = True

    def error(self) -> PostgresRefused | PostgresUnavailable:
        """Return the exception to raise for this failure."""
        if self.permanent:
            return PostgresRefused(f"{self.words}.", self.reason)
        return PostgresUnavailable(self.words, self.reason)


def _retryable(reason: str, words: str) -> LoginFailure:
    return LoginFailure(reason, words, permanent=False)


PASSWORD = LoginFailure(
    "authentication", "The server rejected the user name or password: fix them in the connection string"
)
NO_PASSWORD = LoginFailure(
    "authentication",
    "The server requires a password: add it to the connection string, or set PGPASSWORD or PGPASSFILE",
)
AUTHENTICATION = LoginFailure(
    "authentication",
    "Authentication failed: fix the user in the connection string, or the method for that user in pg_hba.conf",
)
METHOD = LoginFailure(
    "authentication",
    "The server's authentication method is not in require_auth: change the method or require_auth",
)
BINDING = LoginFailure(
    "authentication",
    "The server does not support channel binding: use TLS and scram-sha-256, or remove channel_binding=require",
)
NOT_ADMITTED = LoginFailure(
    "not_admitted",
    "The server does not allow this combination of user, database, address and encryption: "
    "add an entry to its pg_hba.conf, or set sslmode=require if the server allows only TLS",
)
NO_LOGIN = LoginFailure(
    "role", "The role cannot log in: run ALTER ROLE ... LOGIN, or use another role in the connection string"
)
NO_ROLE = LoginFailure("role", "The role does not exist: create it, or fix the user in the connection string")
ROLE = LoginFailure(
    "role", "The role does not exist or cannot log in: run CREATE or ALTER ROLE ... LOGIN, or use another role"
)
NO_DATABASE = LoginFailure(
    "unknown_database", "The database does not exist: create it, or fix its name in the connection string"
)
DEFAULT_DATABASE = LoginFailure(
    "unknown_database",
    "The database does not exist. The connection string has no database name, so libpq used the user name: "
    "add the database name to the connection string",
)
INVALID_DATABASE = LoginFailure(
    "invalid_database", "An interrupted DROP DATABASE left the database unusable: drop it again, then create it"
)
NO_CONNECT = LoginFailure(
    "privilege", "The role lacks the CONNECT privilege on the database: run GRANT CONNECT ON DATABASE for the role"
)
UNTRUSTED = LoginFailure(
    "tls",
    "The server's certificate has expired or is not signed by a trusted authority: "
    "put the authority's certificate in sslrootcert, or renew the server's certificate",
)
OTHER_HOST = LoginFailure(
    "tls",
    "The server's certificate is for another host name: connect to the name in the certificate, "
    "or issue a certificate for this name",
)
NO_ROOT = LoginFailure(
    "tls", "The root certificate file is missing or unreadable: put it at the path in sslrootcert, or fix that path"
)
NO_CERTIFICATE = LoginFailure(
    "tls", "The client certificate or key is missing, unreadable or readable by others: fix sslcert and sslkey"
)
CERTIFICATE_REQUIRED = LoginFailure("tls", "The server requires a valid client certificate: set sslcert and sslkey")
PROTOCOL = LoginFailure(
    "tls", "Client and server have no TLS version in common: fix ssl_min_protocol_version and ssl_max_protocol_version"
)
NO_TLS = LoginFailure("tls", "The server does not support TLS: enable it on the server, or set a weaker sslmode")
TLS_REQUIRED = LoginFailure("tls", "The server requires TLS: set sslmode=require or stricter")
NO_GSS = LoginFailure(
    "gss",
    "GSSAPI encryption requires Kerberos credentials on the client and support on the server: "
    "provide both, or remove gssencmode=require",
)
OLD_PROTOCOL = LoginFailure(
    "protocol",
    "The server does not support the version in min_protocol_version: remove it, or connect to a newer server",
)
PARAMETER = LoginFailure(
    "startup_parameter",
    "The server or pooler rejected a parameter in the connection string: fix or remove the parameter",
)
TENANT = LoginFailure(
    "authentication",
    "The pooler does not know this tenant or user: fix the user name, which for Supabase ends in .PROJECT_REFERENCE",
)
NO_POOL = LoginFailure(
    "unknown_database",
    "The pooler has no pool for this user and database: fix their names, or add a pool to its configuration",
)
NO_CREDENTIALS = LoginFailure(
    "authentication", "The RDS proxy has no credentials for the role: add a secret for the role to the proxy"
)
NO_ENDPOINT = LoginFailure(
    "startup_parameter",
    "The login does not name a Neon endpoint: use the host name from Neon's console, "
    "or add options=endpoint%3DENDPOINT_ID to the connection string",
)
NO_CLUSTER = LoginFailure(
    "startup_parameter",
    "The login does not name a CockroachDB cluster: add options=--cluster%3DCLUSTER to the connection string",
)
DISABLED = LoginFailure("not_accepting", "The provider has disabled this database: enable it in the provider's console")
QUOTA = LoginFailure("quota", "The provider's quota is used up: raise it in the provider's console")
TOKEN = LoginFailure(
    "authentication",
    "The server rejected the password or token: fix it, or request a new token if this one has expired",
)
NOT_POSTGRES = LoginFailure("not_postgres", "The server at this address is not Postgres: fix the host or the port")

NOT_READY = _retryable("not_accepting", "the server is starting up, shutting down or recovering")
STARTING = _retryable("starting_up", "the server is starting up")
RECOVERY = _retryable("recovery", "the server is recovering")
CLOSED_DATABASE = _retryable("not_accepting", "the database does not accept connections")
SHUTTING = _retryable("shutting_down", "the server is shutting down")
TOO_MANY = _retryable("too_many_clients", "the server has too many connections")
ROLE_LIMIT = _retryable("role_limit", "the role has reached its connection limit")
DATABASE_LIMIT = _retryable("database_limit", "the database has reached its connection limit")
RESOURCES = _retryable("resources", "the server is out of memory, disk space or file handles")
READ_ONLY = _retryable("read_only", "the server is read-only")
ATTRIBUTES = _retryable("session_attrs", "no server matches target_session_attrs yet")
POOLER = _retryable("pooler", "the pooler has no connection to its server yet")
REFUSED = _retryable("refused", "connection refused: nothing is listening on that port yet")
NO_SOCKET = _retryable("refused", "the socket does not exist yet")
DNS = _retryable("dns", "the host name cannot be resolved")
NO_ROUTE = _retryable("unreachable", "no route to the host")
TIMEOUT = _retryable("timeout", "the host did not respond in time")
HUNG_UP = _retryable("closed", "the server closed the connection during login")
DIRECT_TLS = _retryable(
    "closed",
    "the server closed the connection during the TLS handshake; sslnegotiation=direct requires Postgres 17 or newer",
)
UNKNOWN = _retryable("unknown", "the login failed for an unknown reason")

# The texts of poolers and providers, whose SQLSTATEs mean little; the first match wins.
_OF_PROVIDERS = (
    ("Tenant or user not found", TENANT),  # Supavisor
    ("tenant/user", TENANT),  # newer versions
    ("max clients reached", TOO_MANY),  # Supavisor, in session mode
    ("Max client connections reached", TOO_MANY),  # Supavisor
    ("Unable to check out process", POOLER),  # Supavisor
    ("No pool configured", NO_POOL),  # pgcat
    ("RDS proxy has no credentials", NO_CREDENTIALS),
    ("waiting to acquire database connection", POOLER),  # RDS Proxy
    ("Endpoint ID is not specified", NO_ENDPOINT),  # Neon
    ("endpoint has been disabled", DISABLED),  # Neon
    ("endpoint is disabled", DISABLED),  # Neon
    ("time quota", QUOTA),  # Neon
    ("data transfer quota", QUOTA),  # Neon
    ("missing cluster identifier", NO_CLUSTER),  # CockroachDB
    ("missing cluster name", NO_CLUSTER),  # CockroachDB
    ("PAM authentication failed", TOKEN),  # also RDS with IAM
    ("LDAP authentication failed", TOKEN),
    ("RADIUS authentication failed", TOKEN),
    ("IAM authentication failed", TOKEN),  # Cloud SQL, RDS Proxy
    ("IAM user authentication failed", TOKEN),  # Cloud SQL
    ("invalid response to SSL negotiation", NOT_POSTGRES),
    ("invalid response to GSSAPI negotiation", NOT_POSTGRES),
    ("expected authentication request from server", NOT_POSTGRES),
)
# The first match wins. Quoted names are removed from the text before matching.
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
    ("requires a valid client certificate", CERTIFICATE_REQUIRED),
    ("client certificate required", CERTIFICATE_REQUIRED),  # PgBouncer
    ("certificate verify failed", UNTRUSTED),
    ("does not match host name", OTHER_HOST),
    ("root certificate file", NO_ROOT),
    ("certificate file", NO_CERTIFICATE),
    ("private key file", NO_CERTIFICATE),
    ("alert certificate required", CERTIFICATE_REQUIRED),
    ("alert unknown ca", CERTIFICATE_REQUIRED),
    ("alert bad certificate", CERTIFICATE_REQUIRED),
    ("alert certificate expired", CERTIFICATE_REQUIRED),
    ("alert protocol version", PROTOCOL),
    ("unsupported protocol", PROTOCOL),
    ("server does not support SSL", NO_TLS),
    ("GSSAPI encryption required", NO_GSS),
    ("server doesn't support GSSAPI encryption", NO_GSS),
    ("server only supports protocol version", OLD_PROTOCOL),
    ("SSL required", TLS_REQUIRED),  # PgBouncer
    ("TLS connection required", TLS_REQUIRED),  # PgBouncer
    ("unsupported startup parameter", PARAMETER),
    ("unrecognized configuration parameter", PARAMETER),
    ("invalid value for parameter", PARAMETER),
    ("invalid command-line argument for server process", PARAMETER),
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
    ("too many connections for role", ROLE_LIMIT),
    ("too many connections for database", DATABASE_LIMIT),
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
    ("unexpected eof while reading", HUNG_UP),  # OpenSSL
    ("Connection reset", HUNG_UP),
)
# A SQLSTATE or its prefix, plus the function in the server's source if the code is ambiguous; the first match wins.
_CODES = (
    ("28P01", "", PASSWORD),
    ("28", "ClientAuthentication", NOT_ADMITTED),
    ("28", "InitializeSessionUserId", ROLE),
    ("28", "", AUTHENTICATION),
    ("42501", "CheckMyDatabase", NO_CONNECT),
    ("42501", "InitPostgres", SHUTTING),  # "must be superuser to connect during database shutdown"
    ("42501", "", PARAMETER),  # a parameter that only a superuser may set
    ("42601", "process_postgres_switches", PARAMETER),
    ("42704", "", PARAMETER),
    ("55P02", "", PARAMETER),  # a parameter that requires a server restart
    ("22023", "", PARAMETER),
    ("3D000", "", NO_DATABASE),
    ("55000", "InitPostgres", INVALID_DATABASE),
    ("55000", "", CLOSED_DATABASE),
    ("57P03", "", NOT_READY),
    ("57P", "", SHUTTING),
    ("57014", "", TIMEOUT),
    ("53300", "InitializeSessionUserId", ROLE_LIMIT),
    ("53300", "CheckMyDatabase", DATABASE_LIMIT),
    ("53300", "", TOO_MANY),
    ("53", "", RESOURCES),
    ("58", "", RESOURCES),
    ("25006", "", READ_ONLY),
)
# Matches quoted names, which could contain any of these texts, in the quotation marks of any language and of Python.
_NAME = re.compile(r'"[^"\n]*"|»[^«\n]*«|«[^»\n]*»|>>.*?<<|<<.*?>>|(?<=host )\'[^\'\n]*\'')


def by_provider(text: str) -> LoginFailure | None:
    """Return the failure that a pooler, a provider or a program other than Postgres reports, or None."""
    text = _NAME.sub("...", text)
    return next((failure for fragment, failure in _OF_PROVIDERS if fragment in text), None)


def by_text(text: str) -> LoginFailure | None:
    """Return the failure that an English error text describes, or None if the text is unknown."""
    text = _NAME.sub("...", text)
    return next((failure for fragment, failure in _TEXTS if fragment in text), None)


def by_sqlstate(sqlstate: str, function: str | None = None) -> LoginFailure | None:
    """Return the failure for a SQLSTATE and the server function that raised it, or None if the SQLSTATE is unknown."""
    return next(
        (failure for code, where, failure in _CODES if sqlstate.startswith(code) and where in {"", function}),
        None,
    )
