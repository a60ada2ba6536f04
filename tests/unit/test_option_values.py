"""If a libpq option has an invalid value, the error names the option without any part of its value."""

from __future__ import annotations

import time

import psycopg
import pytest

from predeploy.connection import libpq
from predeploy.connection.connect import connect
from predeploy.connection.dsn import parse_dsn
from predeploy.connection.login_errors import classify_login_error
from predeploy.connection.parameters import login_conninfo
from predeploy.errors import DatabaseUrlInvalid, StorageError

THREE = "libpq accepts disable, prefer or require."
TLS_VERSIONS = "libpq accepts TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3."
WHERE = "is invalid in DATABASE_URL, a PG* variable or a service file: libpq accepts"
VALUES = [
    ("sslmode=no-verify", "sslmode=no-verify is not supported by libpq: write sslmode=require."),
    ("sslmode=required", "sslmode=required is not supported by libpq: write sslmode=require."),
    ("sslmode=verify_full", "sslmode=verify_full is not supported by libpq: write sslmode=verify-full."),
    ("target_session_attrs=master", "master is not supported by libpq: write target_session_attrs=primary."),
    ("sslmode=Zq7x", f"sslmode {WHERE} disable, allow, prefer, require, verify-ca or verify-full."),
    ("sslmode='require Zq7x\"'", f"sslmode {WHERE} disable, allow"),
    ("target_session_attrs=Zq7x", f"target_session_attrs {WHERE} any, read-write, read-only, primary, standby or"),
    ("sslnegotiation=Zq7x", f"sslnegotiation {WHERE} postgres or direct."),
    ("sslcertmode=Zq7x", f"sslcertmode {WHERE} disable, allow or require."),
    ("gssencmode=Zq7x", THREE),
    ("channel_binding=Zq7x", THREE),
    ("load_balance_hosts=Zq7x", f"load_balance_hosts {WHERE} disable or random."),
    ("require_auth=Zq7x", f"require_auth {WHERE} methods such as scram-sha-256 or md5"),
    ("require_auth=!password,md5", f"require_auth {WHERE} methods such as scram-sha-256 or md5"),
    ("ssl_min_protocol_version=Zq7x", TLS_VERSIONS),
    ("ssl_max_protocol_version=Zq7x", TLS_VERSIONS),
    ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "is greater than ssl_max_protocol_version"),
    ("min_protocol_version=Zq7x", "libpq accepts 3.0, 3.2 or latest."),
    ("min_protocol_version=3.2 max_protocol_version=3.0", "is greater than max_protocol_version: swap them"),
    ("keepalives=Zq7x", f"keepalives {WHERE} a whole number."),
    ("keepalives_idle=Zq7x", f"keepalives_idle {WHERE} a whole number."),
    ("tcp_user_timeout=Zq7x", f"tcp_user_timeout {WHERE} a whole number."),
    ("scram_client_key=Zq7x", f"scram_client_key {WHERE} the key in base64."),
    ("sslmode=require sslrootcert=system", "sslrootcert=system requires sslmode=verify-full: set it in DATABASE_URL"),
    ("sslnegotiation=direct", "sslnegotiation=direct requires sslmode=require or stricter: set it in DATABASE_URL"),
]
BASE = "host=127.0.0.1 port=1 password=Kv9w "


def by_psycopg(text: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        connect(parse_dsn(text), timeout=10)
    return caught.value


def by_ctypes(text: str) -> StorageError:
    """Return what the fast path reports."""
    library = libpq.load()
    assert library
    dsn = parse_dsn(text)
    with pytest.raises(libpq.LoginFailed) as caught:
        libpq.Session(library, login_conninfo(dsn), time.monotonic() + 10)
    return classify_login_error(caught.value, dsn)


@pytest.mark.parametrize("log_in", [by_psycopg, by_ctypes])
@pytest.mark.parametrize("hosts", ["", " host=127.0.0.1,127.0.0.1"])
@pytest.mark.parametrize(("options", "message"), VALUES)
def test_an_option_with_an_invalid_value_is_named_with_the_values_that_libpq_accepts(
    options: str, message: str, hosts: str, log_in: type[StorageError]
) -> None:
    error = log_in(BASE + options + hosts)
    assert isinstance(error, DatabaseUrlInvalid)
    assert message in str(error)
    assert "Zq" not in repr(error)


def test_the_error_names_a_timeout_that_is_not_a_number() -> None:
    error = by_psycopg(BASE + "connect_timeout=Zq7x")
    assert str(error) == f"connect_timeout {WHERE} a whole number."


@pytest.mark.parametrize(
    "text",
    [
        'invalid Zq7x value: "x"',
        'invalid integer value "x" for connection option "Zq7x"',
        "bad value for Zq7x: 'x'",
        'invalid sslmode value: "Zq7x\nsslmode"',
        "could not match Zq7x",
    ],
)
def test_an_unknown_option_is_not_named(text: str) -> None:
    error = classify_login_error(psycopg.OperationalError(text))
    assert isinstance(error, DatabaseUrlInvalid)
    assert "Zq" not in str(error)
