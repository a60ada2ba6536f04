"""Explain which libpq option has an invalid value. Values are never shown, except for common ones in a table."""

from __future__ import annotations

import re

_WHERE = "in DATABASE_URL, a PG* variable or a service file"
_THREE = "disable, prefer or require"
_TLS_VERSIONS = "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"
_PROTOCOLS = "3.0, 3.2 or latest"
_ACCEPTED = {  # by libpq 18
    "sslmode": "disable, allow, prefer, require, verify-ca or verify-full",
    "sslnegotiation": "postgres or direct",
    "sslcertmode": "disable, allow or require",
    "gssencmode": _THREE,
    "channel_binding": _THREE,
    "target_session_attrs": "any, read-write, read-only, primary, standby or prefer-standby",
    "load_balance_hosts": "disable or random",
    "require_auth": "methods such as scram-sha-256 or md5, separated by commas, either all with ! or all without",
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "min_protocol_version": _PROTOCOLS,
    "max_protocol_version": _PROTOCOLS,
    **dict.fromkeys(
        (
            "connect_timeout",
            "keepalives",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "tcp_user_timeout",
        ),
        "a whole number",
    ),
    "scram_client_key": "the key in base64",
    "scram_server_key": "the key in base64",
}
_REPLACEMENTS = {  # values of other clients
    "sslmode": {
        **dict.fromkeys(("no-verify", "required", "true", "on", "1", "enable", "enabled", "yes"), "require"),
        **dict.fromkeys(("false", "off", "0", "disabled", "no", "none"), "disable"),
        **dict.fromkeys(("preferred", "optional"), "prefer"),
        **dict.fromkeys(("verify_full", "verify-identity", "verify_identity", "strict"), "verify-full"),
        "verify_ca": "verify-ca",
    },
    "target_session_attrs": {
        **dict.fromkeys(("master", "leader"), "primary"),
        **dict.fromkeys(("slave", "secondary", "replica"), "standby"),
        **dict.fromkeys(("preferSecondary", "prefer-replica", "preferSlave"), "prefer-standby"),
        **dict.fromkeys(("readwrite", "read_write", "rw"), "read-write"),
    },
}
_COMBINATIONS = {  # a fragment of libpq's message, and what is wrong
    "sslrootcert=system": "sslrootcert=system requires sslmode=verify-full: set it",
    "sslnegotiation=direct": "sslnegotiation=direct requires sslmode=require or stricter: set it",
    "SSL protocol version range": "ssl_min_protocol_version is greater than ssl_max_protocol_version: swap them",
    '"min_protocol_version" is greater': "min_protocol_version is greater than max_protocol_version: swap them",
    "GSSAPI support is not compiled in": "gssencmode=require is not supported by this libpq: remove it",
    "numbers to": "host, hostaddr and port have different numbers of entries: write one port and address per host",
    "names to": "host, hostaddr and port have different numbers of entries: write one port and address per host",
}
_START = "^(?:connection is bad: )?"
_NAMED = re.compile(
    rf"""{_START}(?:invalid "?(\w+)"? value: "(.*)"$|(require_auth) method |bad value for (\w+):)""", re.MULTILINE
)
_SCRAM = re.compile(rf"{_START}invalid SCRAM (client|server) key")
_INTEGER = re.compile(r'invalid integer value ".*" for connection option "(\w+)"\s*$', re.MULTILINE)


def describe(text: str) -> str:
    """Return a message for an error from libpq or psycopg about an option, without any part of the option's value."""
    for fragment, problem in _COMBINATIONS.items():
        if fragment in text:
            return f"{problem} {_WHERE}."
    option, value = _option_in(text)
    if better := _REPLACEMENTS.get(option, {}).get(value):
        return f"{option}={value} is not supported by libpq: write {option}={better}."
    if accepted := _ACCEPTED.get(option):
        return f"{option} is invalid {_WHERE}: libpq accepts {accepted}."
    return "The connection string, a PG* variable or a service has an invalid option."


def _option_in(text: str) -> tuple[str, str]:
    """Return the option's name and value as libpq quotes them; the name is empty if it is unknown."""
    if match := _NAMED.search(text):
        return match[1] or match[3] or match[4], match[2] or ""
    if match := _SCRAM.search(text):
        return f"scram_{match[1]}_key", ""
    match = _INTEGER.search(text)
    return (match[1] if match else ""), ""
