"""What may be known of a connection string: whether it can be used, its host and port, and what to keep secret."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from predeploy.connection import conninfo
from predeploy.errors import DatabaseUrlInvalid, DatabaseUrlMissing

if TYPE_CHECKING:
    from predeploy.connection.libpq import Option

_SCHEMES = ("postgresql://", "postgres://")
_ENCODE = "percent-encode every @ : / ? # % of the user name and the password (an @ is %40, a / is %2F)"
# An sslmode that no libpq knows: it fills in what services, passfiles and the environment add, then goes no further.
_UNUSABLE = "never-connect"
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")  # what no URI encodes
_HOST_NAME = re.compile(r"[\w.-]*")
_KEPT_SECRET = ("scram_client_key", "scram_server_key")  # beside what libpq itself says not to display
_IN_URI = re.compile(r"[?&](?:ssl)?password=([^&]*)")
_IN_KEY_VALUE = re.compile(r"\b(?:ssl)?password\s*=\s*(?:'((?:[^'\\]|\\.)*)|((?:[^\s\\]|\\.)*))", re.DOTALL)
_SHORT = 4  # from so many characters on a secret is masked wherever it stands


def parse_dsn(dsn: str | None) -> dict[str, str]:
    """Return the parameters that the URI or key=value string names itself.

    Raise `DatabaseUrlMissing` for none and `DatabaseUrlInvalid` for one that libpq cannot read, or would read
    with a piece of an unencoded password as the host, the port or the database. libpq's own words hold the
    password in such a case, so the texts here are fixed, and raised where no cause hangs on to them.
    """
    if not dsn or not dsn.strip():
        raise DatabaseUrlMissing("DATABASE_URL environment variable is required.")
    uri = dsn.startswith(_SCHEMES)
    if "://" in dsn.split("=", 1)[0] and not uri:
        raise DatabaseUrlInvalid("DATABASE_URL must start with postgresql:// or postgres://, without a driver name.")
    if uri and _has_stray_at(dsn):
        raise DatabaseUrlInvalid(f"DATABASE_URL has an unencoded @ in the wrong place: {_ENCODE}.")
    if "\0" in dsn:  # libpq would stop reading there
        raise DatabaseUrlInvalid("DATABASE_URL holds a NUL byte: write it as plain text, in UTF-8.")
    if not _is_unicode(_decoded(dsn) if uri else dsn):
        raise DatabaseUrlInvalid("DATABASE_URL is not UTF-8.")
    options = conninfo.parse(dsn)
    if options is None:
        remedy = _ENCODE if uri else "put values that hold spaces in single quotes, with \\ before ' and \\"
        raise DatabaseUrlInvalid(f"DATABASE_URL is malformed: {remedy}.")
    values = _values(options)
    if not _are_ports(values.get("port", "")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has a port that is no number from 1 to 65535: {_ENCODE}.")
    if any("@" in values.get(key, "") for key in ("host", "hostaddr", "dbname")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has an @ in the host or the database name: {_ENCODE}.")
    if not all(_are_hosts(values.get(key, "")) for key in ("host", "hostaddr")):
        raise DatabaseUrlInvalid(
            f"DATABASE_URL has a host that is no name, address or directory: name the port on its own, and {_ENCODE}."
        )
    return values


def _has_stray_at(uri: str) -> bool:
    rest = uri.split("://", 1)[1]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    return rest.count("@") > 1 or rest.count("@") > authority.count("@")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(options: list[Option]) -> dict[str, str]:
    return {keyword: value.decode(errors="replace") for keyword, value, _ in options if value is not None}


def _are_ports(text: str) -> bool:
    ports = [port for port in text.split(",") if port]
    return all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports)


def _are_hosts(text: str) -> bool:
    return all(host.startswith("/") or _HOST_NAME.fullmatch(host) or _is_ipv6(host) for host in text.split(","))


def _is_ipv6(text: str) -> bool:
    import socket  # most hosts are names, and it takes 3 ms

    address, _, zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return bool(_HOST_NAME.fullmatch(zone))


def host_and_port(dsn: str) -> tuple[str, int | str]:
    """Return the host and the port to show, a service's and the environment's included; several joined by commas.

    Raise what `parse_dsn` raises, and `DatabaseUrlInvalid` when it is the environment or a service file that names
    no host or port, or when there is no such service.
    """
    used = _used(parse_dsn(dsn))
    if used is None:
        raise DatabaseUrlInvalid(
            "The service that DATABASE_URL or PGSERVICE names cannot be read: look for its section in the service file "
            "(PGSERVICEFILE or ~/.pg_service.conf) and for unknown keywords in it."
        )
    values, _ = used
    host = values.get("host") or values.get("hostaddr") or "local socket"
    port = values["port"] if values.get("port", "").strip(",") else "5432"
    named = "" if host == "local socket" else host
    if "@" in named or not _are_hosts(named) or not _are_ports(port):
        raise DatabaseUrlInvalid("PGHOST, PGHOSTADDR or PGPORT (or a service file) holds no host name or no port.")
    return host, int(port) if port.isdigit() else port


def _used(values: dict[str, str]) -> tuple[dict[str, str], str] | None:
    """Return all that libpq would use, and the password that it has found; None when a service cannot be read."""
    if resolved := conninfo.resolve({**values, "sslmode": _UNUSABLE}):
        used = _values(resolved[0])
        if used.get("sslmode") == _UNUSABLE:
            password = resolved[1].decode(errors="surrogateescape")
            return {key: value for key, value in used.items() if value}, password
    return None


def secrets_of(dsn: str) -> set[str]:
    """Return every form in which this connection string's secrets could surface in a text.

    Among them is what the environment, a service file and a passfile add.
    """
    found = {dsn}
    for user, password in _logins(dsn):
        for form in _spellings(password):
            found |= {form} if len(form) >= _SHORT else {form, *_in_context(user, form)}
    return found


def _spellings(secret: str) -> set[str]:
    """Return it as it is, decoded, percent-encoded, and as Python, JSON, libpq and SQL quote it."""
    in_uris = _encoded(secret)
    plain = {secret, _decoded(secret, "replace")}
    found = plain | in_uris | {re.sub("%..", lambda code: code[0].lower(), form) for form in in_uris}
    for text in plain:
        inner = repr(text)[1:-1]
        libpq = text.replace("\\", "\\\\").replace("'", "\\'")
        found |= {inner, inner.replace("'", "\\'"), ascii(text)[1:-1], libpq, text.replace("'", "''")}
        found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return found - {""}


def _decoded(text: str, errors: str = "surrogateescape") -> str:
    if "%" not in text:  # most need no urllib.parse, which takes 3 ms of every start
        return text
    from urllib.parse import unquote

    return unquote(text, errors=errors)


def _encoded(secret: str) -> set[str]:
    if _UNRESERVED.fullmatch(secret):
        return {secret}
    from urllib.parse import quote, quote_plus

    errors = "surrogateescape"
    return {quote(secret, safe="", errors=errors), quote(secret, errors=errors), quote_plus(secret, errors=errors)}


def _in_context(user: str, password: str) -> set[str]:
    return {f"{user}:{password}", f":{password}@", f"password={password}", f"password='{password}'"}


def libpq_defaults() -> dict[str, str]:
    """Return what libpq takes from its PG* variables and a service file that they name."""
    return {key: value for key, value in _values(conninfo.defaults()).items() if value}


def _logins(dsn: str) -> set[tuple[str, str]]:
    """Return users and their passwords, whatever kind of secret those are, as they are and as they are written."""
    values: dict[str, str] = {}
    written: list[str] = []
    with suppress(DatabaseUrlMissing, DatabaseUrlInvalid):
        values = parse_dsn(dsn)
    authority = dsn.partition("://")[2]
    if authority:
        userinfo = authority.rpartition("@")[0]
        written += [userinfo.partition(":")[2], userinfo.partition(":")[2].rpartition(":")[2], *_IN_URI.findall(dsn)]
        if not values:  # what its author meant is anybody's guess
            written.append(re.split("[/@?]", authority.partition(":")[2], maxsplit=1)[0])
    else:
        written += [quoted or bare for quoted, bare in _IN_KEY_VALUE.findall(dsn)]
    used, passwords = libpq_defaults() | values, []
    for place in _places(values):
        if place_used := _used(place):
            used = place_used[0] | values
            passwords.append(place_used[1])
    kept_secret = {keyword for keyword, _, secret in conninfo.defaults() if secret}.union(_KEPT_SECRET)
    passwords += [value for key, value in (*used.items(), *libpq_defaults().items()) if key in kept_secret]
    return {(used.get("user", ""), password) for password in (*written, *passwords) if password}


def _places(values: dict[str, str]) -> list[dict[str, str]]:
    """Return the parameters, and those for each host alone: a passfile may have a password for each."""
    used = _used(values)
    if used is None or "," not in used[0].get("host", ""):
        return [values]
    hosts, ports = used[0]["host"].split(","), used[0].get("port", "").split(",")
    alone = {key: value for key, value in values.items() if key != "hostaddr"}
    return [values, *({**alone, "host": host, "port": ports[at % len(ports)]} for at, host in enumerate(hosts))]
