"""Connection parameters of other client libraries, and their equivalents in libpq."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# From Prisma, Supabase, Neon, node-postgres, pgx, JDBC, Npgsql, Doctrine, SQLAlchemy, Rails, Ecto and golang-migrate.
_WITHOUT_EQUIVALENT = """
    pgbouncer connection_limit pool_timeout socket_timeout statement_cache_size statement_cache_capacity
    single_use_connections relationMode sslidentity uselibpqcompat supa workaround pool_mode pool pool_size poolSize
    pool_min pool_max pool_max_conns pool_min_conns pool_max_conn_lifetime pool_max_conn_idle_time pool_recycle
    pool_health_check_period pool_pre_ping max_overflow max_connections min_connections max min maxPoolSize minPoolSize
    pooling idle_timeout idleTimeout max_lifetime default_query_exec_mode prefer_simple_protocol simple_protocol
    binary_parameters description_cache_capacity prepareThreshold preparedStatementCacheQueries prepared_statements
    prepared_statement_cache_size prepare statement_limit reconnect retries serverVersion server_version driver adapter
    dialect stringtype reWriteBatchedInserts autosave allowPublicKeyRetrieval useUnicode zeroDateTimeBehavior
    socketTimeout command_timeout log x-multi-statement x-multi-statement-max-size x-lock-strategy
    disable_prepared_binary_result charset encoding characterEncoding
"""
_SETTINGS = """
    statement_timeout lock_timeout idle_in_transaction_session_timeout transaction_timeout timezone datestyle
    intervalstyle role work_mem maintenance_work_mem jit extra_float_digits default_transaction_isolation
    default_transaction_read_only synchronous_commit client_min_messages row_security
"""
_TIMEOUTS = """
    connectTimeout connection_timeout connectionTimeout connect-timeout timeout loginTimeout login_timeout
"""
# Each remedy with its parameters. An empty remedy means to remove the parameter; {name} and {=} are filled in.
_GROUPS = (
    ("", _WITHOUT_EQUIVALENT),
    ("options=-csearch_path{=}SCHEMA, or remove it", "schema search_path searchPath currentSchema search-path"),
    ("options=-c{name}{=}VALUE", _SETTINGS),
    ("connect_timeout=SECONDS", _TIMEOUTS),
    (
        "sslmode=require, or sslmode=verify-full to check the certificate",
        "ssl tls useSSL sslEnabled ssl_mode ssl-mode encrypt require_ssl",
    ),
    (
        "sslmode=verify-full, or sslmode=require to accept any certificate",
        "sslaccept ssl_accept rejectUnauthorized sslfactory trustServerCertificate ssl_verify",
    ),
    ("sslrootcert=FILE", "sslca ssl_ca ssl-ca ssl_root_cert sslrootcertificate ssl_ca_certs tlsCAFile"),
    ("sslcert=FILE", "ssl_cert ssl-cert sslcertificate"),
    ("sslkey=FILE", "ssl_key ssl-key"),
    ("application_name=NAME", "applicationName app_name appname"),
    ("target_session_attrs=VALUE", "targetServerType target_server_type"),
    ("load_balance_hosts=VALUE", "loadBalanceHosts"),
    ("user=NAME", "username user_name uid"),
    ("password=VALUE", "pass passwd pwd"),
    ("dbname=NAME", "database db database_name databaseName"),
    ("host=NAME", "hostname server socket unix_sock"),
    ("options=endpoint{=}ID", "endpoint"),
    ("the variable MIGRATE_TABLE", "x-migrations-table x-migrations-table-quoted"),
    ("the variable MIGRATE_STATEMENT_TIMEOUT", "x-statement-timeout"),
)
_PARAMETERS = {name.lower(): (name, remedy) for remedy, names in _GROUPS for name in names.split()}


def removal_or_change(name: str, keywords: Iterable[str], equals: str) -> tuple[str, str] | None:
    """Return `(name, "")` for a parameter to remove, `("", change)` for one to change, or None for an unknown one.

    `equals` is how = is written inside a value. Names come from the table or `keywords`, never from the connection
    string.
    """
    lower = name.lower()
    if lower in keywords:
        return "", f"write {lower} in lower case"
    if not (entry := _PARAMETERS.get(lower)):
        return None
    known, remedy = entry
    change = remedy.replace("{name}", known).replace("{=}", equals)
    return ("", f"replace {known} with {change}") if change else (known, "")
