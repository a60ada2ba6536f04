"""Login errors are classified by the English texts of libpq, Postgres and PgBouncer, or otherwise by SQLSTATE."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from predeploy.connection.login_error_table import by_sqlstate
from predeploy.connection.login_errors import classify_login_error, classify_statement_error
from predeploy.errors import PostgresRefused, PostgresUnavailable, StorageError

TO = 'connection to server at "db-9081" (10.9.8.7), port 5432 failed: '
SOCKET = 'connection to server on socket "/run/db-9081/.s.PGSQL.5432" failed: '
FATAL = TO + "FATAL:  "
ROOT_HINT = (
    "\nEither provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable "
    "server certificate verification."
)

PERMANENT = [
    (FATAL + 'password authentication failed for user "zq7x"', "authentication"),
    (FATAL + 'LDAP authentication failed for user "zq7x"', "authentication"),
    (FATAL + 'certificate authentication failed for user "zq7x"', "authentication"),
    (TO + "fe_sendauth: no password supplied", "authentication"),
    (
        TO + 'authentication method requirement "scram-sha-256" failed: server requested a cleartext password',
        "authentication",
    ),
    (TO + "channel binding required, but SSL not in use", "authentication"),
    (
        TO + "channel binding is required, but server did not offer an authentication method that supports channel "
        "binding",
        "authentication",
    ),
    (
        FATAL + 'no pg_hba.conf entry for host "10.9.8.7", user "zq7x", database "kv9w", no encryption',
        "not_admitted",
    ),
    (
        FATAL + 'pg_hba.conf rejects connection for host "10.9.8.7", user "zq7x", database "kv9w", SSL encryption',
        "not_admitted",
    ),
    (FATAL + 'role "zq7x" is not permitted to log in', "role"),
    (
        FATAL + 'permission denied for database "kv9w"\nDETAIL:  User does not have CONNECT privilege.',
        "privilege",
    ),
    (TO + "SSL error: certificate verify failed", "tls"),
    (TO + 'server certificate for "localhost" does not match host name "db-9081"', "tls"),
    (TO + 'root certificate file "/zq7x/root.crt" does not exist' + ROOT_HINT, "tls"),
    (TO + 'could not read root certificate file "/zq7x/root.crt": no certificate or crl found', "tls"),
    (TO + 'could not open certificate file "/zq7x/postgresql.crt": No such file or directory', "tls"),
    (TO + 'certificate present, but not private key file "/zq7x/postgresql.key"', "tls"),
    (TO + 'private key file "/zq7x/postgresql.key" has group or world access', "tls"),
    (TO + "server does not support SSL, but SSL was required", "tls"),
    (TO + "GSSAPI encryption required but no credential cache", "gss"),
    (TO + "server doesn't support GSSAPI encryption, but it was required", "gss"),
    (TO + 'server only supports protocol version 3.0, but "min_protocol_version" was set to 3.2', "protocol"),
    (FATAL + "invalid command-line argument for server process: zq7x", "startup_parameter"),
    (
        FATAL + "42601: --zq7x requires a value\nLOCATION:  process_postgres_switches, postgres.c:3962",
        "startup_parameter",
    ),
    (FATAL + "unsupported startup parameter: options", "startup_parameter"),
    (FATAL + 'unrecognized configuration parameter "zq7x"', "startup_parameter"),
    (FATAL + 'role "zq7x" does not exist', "role"),
    (SOCKET + 'FATAL:  role "zq7x" does not exist', "role"),
    (FATAL + 'database "kv9w" does not exist', "unknown_database"),
    (
        FATAL + 'database "kv9w" does not exist\nDETAIL:  It seems to have just been dropped or renamed.',
        "unknown_database",
    ),
    (FATAL + 'cannot connect to invalid database "kv9w"', "invalid_database"),
    (FATAL + 'invalid value for parameter "TimeZone": "zq7x"', "startup_parameter"),
    (FATAL + 'permission denied to set parameter "lc_messages"', "startup_parameter"),
    (FATAL + "connection requires a valid client certificate", "tls"),
    (TO + "SSL error: tlsv13 alert certificate required", "tls"),
    (TO + "SSL error: tlsv1 alert unknown ca", "tls"),
    (TO + "SSL error: tlsv1 alert protocol version", "tls"),
    (TO + "SSL error: unsupported protocol", "tls"),
    # PgBouncer's
    (FATAL + "no such user", "authentication"),
    (FATAL + "auth failed", "authentication"),
    (FATAL + "SASL authentication failed", "authentication"),
    (FATAL + "login rejected", "authentication"),
    (FATAL + "no such database: kv9w", "unknown_database"),
    (FATAL + "SSL required", "tls"),
    (FATAL + "TLS client certificate required", "tls"),
    (
        FATAL + "server login has been failing, cached error: password authentication failed for user "
        '"zq7x" (server_login_retry)',
        "authentication",
    ),
    (TO + "received invalid response to SSL negotiation: H", "not_postgres"),
    # A permanent failure takes precedence over a retryable one, whatever the order of hosts.
    (TO + "Connection refused\n" + FATAL + 'password authentication failed for user "zq7x"', "authentication"),
    (FATAL + 'database "too many" does not exist', "unknown_database"),
    (FATAL + 'password authentication failed for user "starting up"', "authentication"),
]

RETRYABLE = [
    (FATAL + "the database system is starting up", "starting_up"),
    (FATAL + "the database system is shutting down", "shutting_down"),
    (FATAL + "the database system is in recovery mode", "recovery"),
    (FATAL + "the database system is not yet accepting connections", "recovery"),
    (
        FATAL + "the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
        "not_accepting",
    ),
    (FATAL + 'database "kv9w" is not currently accepting connections', "not_accepting"),
    (FATAL + "sorry, too many clients already", "too_many_clients"),
    (FATAL + 'too many connections for role "zq7x"', "role_limit"),
    (FATAL + 'too many connections for database "kv9w"', "database_limit"),
    (
        FATAL + "remaining connection slots are reserved for non-replication superuser connections",
        "too_many_clients",
    ),
    (FATAL + "no more connections allowed (max_client_conn)", "too_many_clients"),
    (FATAL + "must be superuser to connect during database shutdown", "shutting_down"),
    (FATAL + "canceling authentication due to timeout", "timeout"),
    (FATAL + "server login has been failing, try again later (server_login_retry)", "pooler"),
    (FATAL + "query_wait_timeout", "pooler"),
    (FATAL + "client_login_timeout (server down)", "pooler"),
    (FATAL + "pgbouncer cannot connect to server", "pooler"),
    (TO + "session is read-only", "read_only"),
    (TO + "server is in hot standby mode", "read_only"),
    (TO + "server is not in hot standby mode", "session_attrs"),
    (
        TO + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "refused",
    ),
    (
        SOCKET + "No such file or directory\n\tIs the server running locally and accepting connections on that socket?",
        "refused",
    ),
    ('could not translate host name "db-9081" to address: Name or service not known', "dns"),
    ('could not translate host name "db-9081" to address: Temporary failure in name resolution', "dns"),
    ("failed to resolve host 'db-9081': [Errno -2] Name or service not known", "dns"),
    ("[Errno -2] Name or service not known", "dns"),
    ("[Errno -3] Temporary failure in name resolution", "dns"),
    (TO + "No route to host", "unreachable"),
    (TO + "Network is unreachable", "unreachable"),
    (TO + "timeout expired", "timeout"),
    (TO + "Connection timed out", "timeout"),
    (TO + "could not receive data from server: Connection timed out", "timeout"),
    (
        TO + "server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.",
        "closed",
    ),
    (TO + "could not receive data from server: Connection reset by peer", "closed"),
    (TO + "SSL error: unexpected eof while reading", "closed"),
]

UNKNOWN = [
    "",
    "zq7x",
    TO + "SSL SYSCALL error: EOF detected",
    FATAL + "Passwort-Authentifizierung für Benutzer »zq7x« fehlgeschlagen",
    FATAL + "Datenbank »recovery« ist zq7x",  # a quoted name is ignored, in any language's quotation marks
    FATAL + 'Datenbank "too many" ist zq7x',
    FATAL + "Datenbank >>starting up<< ist zq7x",
    FATAL + "la base de données « SSL required » est zq7x",
    'connection to server at "recovery" (10.9.8.7), port 5432 failed: zq7x',
    FATAL + 'role "zq7x" is on holiday',
    'missing "=" after "zq7x" in connection info string',
]
IN_THE_TEXTS = ("zq7x", "kv9w", "9081", "10.9.8.7", "root.crt")


@pytest.mark.parametrize(("text", "reason"), PERMANENT)
def test_a_permanent_failure_means_refused(text: str, reason: str) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (PostgresRefused, reason)
    assert_own_words(error)


@pytest.mark.parametrize(("text", "reason"), RETRYABLE)
def test_a_retryable_failure_means_unavailable(text: str, reason: str) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (PostgresUnavailable, reason)
    assert_own_words(error)


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_unknown_failure_is_retryable(text: str) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (PostgresUnavailable, "unknown")
    assert str(error) == "the login failed for an unknown reason"


def of_hosts(*hosts: tuple[str, str]) -> str:
    """Return psycopg's message after attempts on several hosts."""
    attempts = [f"- host: {host!r}, port: '5432', hostaddr: '10.9.8.7': {text}" for host, text in hosts]
    return "\n".join([hosts[-1][1], "Multiple connection attempts failed. All failures were:", *attempts])


REFUSED, STARTING = TO + "Connection refused\n\tIs the server running?", FATAL + "the database system is starting up"
WRONG_PASSWORD = FATAL + 'password authentication failed for user "zq7x"'
NOT_ADMITTED, NO_TLS = FATAL + 'no pg_hba.conf entry for host "10.9.8.7"', TO + "server does not support SSL"


@pytest.mark.parametrize(
    ("hosts", "kind", "reason"),
    [
        ([("a", REFUSED), ("b", WRONG_PASSWORD)], PostgresRefused, "authentication"),
        ([("a", WRONG_PASSWORD), ("b", REFUSED)], PostgresRefused, "authentication"),
        ([("a", NOT_ADMITTED), ("b", STARTING)], PostgresUnavailable, "starting_up"),
        ([("a", STARTING), ("b", NO_TLS)], PostgresUnavailable, "starting_up"),
        ([("a", NOT_ADMITTED), ("b", NO_TLS)], PostgresRefused, "not_admitted"),
        ([("a", NOT_ADMITTED), ("b", "zq7x")], PostgresUnavailable, "unknown"),
        ([("a", REFUSED), ("b", STARTING)], PostgresUnavailable, "refused"),
        ([("a", REFUSED), ("a", NO_TLS)], PostgresRefused, "tls"),
        ([("a", REFUSED), ("a", NO_TLS), ("b", STARTING)], PostgresUnavailable, "starting_up"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_one_host_that_rejects_shared_credentials_makes_the_failure_permanent(
    hosts: list[tuple[str, str]], kind: type[StorageError], reason: str
) -> None:
    """In the last two cases, a host has several addresses and rejects the login at the one on which it listens."""
    error: Any = classify_login_error(psycopg.OperationalError(of_hosts(*hosts)))
    assert (type(error), error.reason) == (kind, reason)


def verbose(severity: str, sqlstate: str, text: str, function: str = "f") -> str:
    """Return libpq's message after PQsetErrorVerbosity(VERBOSE)."""
    return f"{TO}{severity}:  {sqlstate}: {text}\nLOCATION:  {function}, file.c:326\n"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            verbose("FATAL", "28P01", "Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", "auth_failed"),
            PostgresRefused,
            "authentication",
        ),
        (verbose("SCHWERWIEGEND", "3D000", "Datenbank »kv9w« existiert nicht"), PostgresRefused, "unknown_database"),
        (verbose("BLAH", "28000", "blah »zq7x«", "ClientAuthentication"), PostgresRefused, "not_admitted"),
        (verbose("BLAH", "28000", "blah", "InitializeSessionUserId"), PostgresRefused, "role"),
        (
            verbose("BLAH", "28000", "blah\nDETAIL:  blah\nHINT:  blah", "auth_failed"),
            PostgresRefused,
            "authentication",
        ),
        (verbose("BLAH", "42501", "blah »kv9w«\nDETAIL:  blah", "CheckMyDatabase"), PostgresRefused, "privilege"),
        (verbose("BLAH", "42501", "blah", "InitPostgres"), PostgresUnavailable, "shutting_down"),
        (verbose("BLAH", "53300", "blah"), PostgresUnavailable, "too_many_clients"),
        (verbose("BLAH", "57P03", "blah"), PostgresUnavailable, "not_accepting"),
        (f"{TO}FATAL:  57P03: blah", PostgresUnavailable, "not_accepting"),  # a pooler names no function
        (verbose("BLAH", "XX000", "blah"), PostgresUnavailable, "unknown"),
        (verbose("FATAL", "XX000", "no pg_hba.conf entry"), PostgresRefused, "not_admitted"),
    ],
)
def test_the_sqlstate_in_a_verbose_text_decides_in_every_language(
    text: str, kind: type[StorageError], reason: str
) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (kind, reason)
    assert_own_words(error)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (verbose("FATAL", "57P03", "the database system is starting up"), PostgresUnavailable, "starting_up"),
        (verbose("FATAL", "57P03", "the database system is shutting down"), PostgresUnavailable, "shutting_down"),
        (verbose("FATAL", "28000", 'role "x" is not permitted to log in', "f"), PostgresRefused, "role"),
        # The text is ignored if it contradicts the SQLSTATE on whether waiting helps.
        (verbose("FATAL", "57P03", "password authentication failed"), PostgresUnavailable, "not_accepting"),
        (verbose("FATAL", "28P01", "too many clients"), PostgresRefused, "authentication"),
    ],
)
def test_an_english_text_refines_its_sqlstate_and_never_overrules_it(
    text: str, kind: type[StorageError], reason: str
) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (kind, reason)


@pytest.mark.parametrize("quotes", ['"{}"', "»{}«", "« {} »", ">>{}<<"])
@pytest.mark.parametrize("name", [":  28P01: ", "x:  28P01: y", "LOCATION:  auth_failed, auth.c:326", "SSL required"])
@pytest.mark.parametrize(
    ("sqlstate", "function", "reason"), [("55000", "CheckMyDatabase", "not_accepting"), ("XX000", "f", "unknown")]
)
def test_a_quoted_name_that_resembles_a_sqlstate_is_ignored(
    quotes: str, name: str, sqlstate: str, function: str, reason: str
) -> None:
    text = verbose("FATAL", sqlstate, f"blah {quotes.format(name)} blah\nDETAIL:  {quotes.format(name)}", function)
    error: Any = classify_login_error(psycopg.OperationalError(text))
    assert (type(error), error.reason) == (PostgresUnavailable, reason)


GERMAN_PASSWORD = verbose(
    "FATAL", "28P01", "Passwort-Authentifizierung für Benutzer »zq7x« fehlgeschlagen", "auth_failed"
)
GERMAN_STARTING = verbose("FATAL", "57P03", "das Datenbanksystem startet", "ProcessStartupPacket")
GERMAN_NOT_ADMITTED = verbose("FATAL", "28000", "kein pg_hba.conf-Eintrag für Host »10.9.8.7«", "ClientAuthentication")


@pytest.mark.parametrize(
    ("hosts", "kind", "reason"),
    [
        ([("a", REFUSED), ("b", GERMAN_PASSWORD)], PostgresRefused, "authentication"),
        ([("a", GERMAN_PASSWORD), ("b", GERMAN_STARTING)], PostgresRefused, "authentication"),
        ([("a", GERMAN_NOT_ADMITTED), ("b", GERMAN_STARTING)], PostgresUnavailable, "not_accepting"),
        ([("a", GERMAN_STARTING), ("b", GERMAN_NOT_ADMITTED)], PostgresUnavailable, "not_accepting"),
        ([("a", GERMAN_NOT_ADMITTED), ("b", GERMAN_NOT_ADMITTED)], PostgresRefused, "not_admitted"),
        ([("a", REFUSED), ("a", GERMAN_NOT_ADMITTED)], PostgresRefused, "not_admitted"),
        ([("a", GERMAN_NOT_ADMITTED), ("b", REFUSED)], PostgresUnavailable, "refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_of_several_hosts_is_classified_by_its_own_sqlstate(
    hosts: list[tuple[str, str]], kind: type[StorageError], reason: str
) -> None:
    error: Any = classify_login_error(psycopg.OperationalError(of_hosts(*hosts)))
    assert (type(error), error.reason) == (kind, reason)


def test_an_error_with_a_sqlstate_is_classified_by_it() -> None:
    """The error of the first statement after a login has a SQLSTATE; psycopg's login errors do not."""
    error: Any = classify_login_error(psycopg.errors.CannotConnectNow("blah »28P01«"))
    assert (type(error), error.reason) == (PostgresUnavailable, "not_accepting")


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError('connection is bad: invalid sslmode value: "zq7x"'),
        psycopg.OperationalError('connection is bad: definition of service "zq7x" not found'),
        psycopg.OperationalError("connection is bad: could not match 2 port numbers to 3 hosts"),
        psycopg.ProgrammingError("bad value for connect_timeout: 'zq7x'"),
        UnicodeError("label empty or too long"),
    ],
    ids=["sslmode", "service", "ports", "connect_timeout", "host"],
)
def test_a_connection_string_that_libpq_rejects_is_a_configuration_error(error: psycopg.Error | UnicodeError) -> None:
    assert_own_words(classified := classify_login_error(error))
    assert classified.exit_code == 2


@pytest.mark.parametrize(
    ("sqlstate", "function", "reason", "permanent"),
    [
        ("28P01", "auth_failed", "authentication", True),
        ("28000", "auth_failed", "authentication", True),
        ("28000", None, "authentication", True),
        ("28000", "ClientAuthentication", "not_admitted", True),
        ("28000", "InitializeSessionUserId", "role", True),
        ("3D000", "InitPostgres", "unknown_database", True),
        ("42501", "CheckMyDatabase", "privilege", True),
        ("42501", "InitPostgres", "shutting_down", False),
        ("42501", "set_config_option", "startup_parameter", True),
        ("42601", "process_postgres_switches", "startup_parameter", True),
        ("42704", "find_option", "startup_parameter", True),
        ("55P02", "set_config_option", "startup_parameter", True),
        ("22023", "set_config_option", "startup_parameter", True),
        ("55000", "CheckMyDatabase", "not_accepting", False),
        ("55000", "InitPostgres", "invalid_database", True),
        ("57P03", "ProcessStartupPacket", "not_accepting", False),
        ("57P01", "ProcessInterrupts", "shutting_down", False),
        ("57014", "ProcessInterrupts", "timeout", False),
        ("53300", "InitProcess", "too_many_clients", False),
        ("53300", "InitializeSessionUserId", "role_limit", False),
        ("53300", "CheckMyDatabase", "database_limit", False),
        ("53200", "MemoryContextAlloc", "resources", False),
        ("58P01", "BasicOpenFile", "resources", False),
        ("25006", "PreventCommandIfReadOnly", "read_only", False),
    ],
)
def test_a_sqlstate_and_its_function_decide(sqlstate: str, function: str | None, reason: str, permanent: bool) -> None:
    failure = by_sqlstate(sqlstate, function)
    assert failure
    assert (failure.reason, failure.permanent) == (reason, permanent)


@pytest.mark.parametrize("sqlstate", ["08P01", "XX000", "42601", "0A000"])
def test_an_ambiguous_sqlstate_is_ignored(sqlstate: str) -> None:
    assert by_sqlstate(sqlstate, "errfinish") is None


def assert_own_words(error: StorageError) -> None:
    assert len(str(error)) > 15
    assert [word for word in IN_THE_TEXTS if word in repr(error).lower()] == []
    assert "\n" not in str(error)


def test_a_permanent_failure_is_a_sentence_with_a_remedy_and_a_retryable_one_a_clause() -> None:
    for text, _ in PERMANENT:
        sentence = str(classify_login_error(psycopg.OperationalError(text)))
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert ": " in sentence, "the remedy must follow a colon"
    for text, _ in RETRYABLE:
        words = str(classify_login_error(psycopg.OperationalError(text)))
        assert words[0].islower()
        assert not words.endswith(".")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.InsufficientPrivilege, PostgresRefused),
        (psycopg.errors.UndefinedTable, PostgresRefused),
        (psycopg.errors.InvalidSchemaName, PostgresRefused),
        (psycopg.errors.SyntaxError, PostgresRefused),
        (psycopg.errors.DatatypeMismatch, PostgresRefused),
        (psycopg.errors.ActiveSqlTransaction, PostgresRefused),
        (psycopg.errors.ReadOnlySqlTransaction, PostgresUnavailable),
        (psycopg.errors.ConnectionFailure, PostgresUnavailable),
        (psycopg.errors.SerializationFailure, PostgresUnavailable),
        (psycopg.errors.DeadlockDetected, PostgresUnavailable),
        (psycopg.errors.DiskFull, PostgresUnavailable),
        (psycopg.errors.OutOfMemory, PostgresUnavailable),
        (psycopg.errors.TooManyConnections, PostgresUnavailable),
        (psycopg.errors.LockNotAvailable, PostgresUnavailable),
        (psycopg.errors.ObjectInUse, PostgresRefused),
        (psycopg.errors.AdminShutdown, PostgresUnavailable),
        (psycopg.errors.QueryCanceled, PostgresUnavailable),
        (psycopg.errors.IoError, PostgresUnavailable),
        (psycopg.OperationalError, PostgresRefused),
    ],
    ids=lambda value: value.__name__,
)
def test_the_programs_own_failed_statement_is_reported_with_its_sqlstate(
    error: type[psycopg.Error], kind: type[StorageError]
) -> None:
    classified: Any = classify_statement_error(error("zq7x"))
    assert (type(classified), classified.reason) == (kind, "statement")
    assert str(classified) == f"Postgres rejected an internal statement: None (SQLSTATE {error.sqlstate})."
