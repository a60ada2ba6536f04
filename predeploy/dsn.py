"""What may be known of a connection string: whether it can be used, its host and port, and what to keep secret."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from psycopg import OperationalError, pq

from predeploy.errors import DatabaseUrlInvalid, DatabaseUrlMissing

_SCHEMES = ("postgresql://", "postgres://")
_ENCODE = "percent-encode every @ : / ? # % of the user name and the password (an @ is %40, a / is %2F)"


def parse_dsn(dsn: str | None) -> dict[str, str]:
    """Return the parameters that the URI or key=value string names itself.

    Raise `DatabaseUrlMissing` for none and `DatabaseUrlInvalid` for one that libpq cannot read, or would read
    with a piece of an unencoded password as the host, the port or the database. libpq's own words hold the
    password in such a case, so the texts here are fixed and the cause is cut off.
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
    try:
        options = pq.Conninfo.parse(dsn.encode())
    except OperationalError:
        remedy = _ENCODE if uri else "put values that hold spaces in single quotes, with \\ before ' and \\"
        raise DatabaseUrlInvalid(f"DATABASE_URL is malformed: {remedy}.") from None
    except UnicodeEncodeError:
        raise DatabaseUrlInvalid("DATABASE_URL is not UTF-8.") from None
    values = {o.keyword.decode(): o.val.decode(errors="replace") for o in options if o.val is not None}
    if not _are_ports(values.get("port", "")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has a port that is no number from 1 to 65535: {_ENCODE}.")
    if any("@" in values.get(key, "") for key in ("host", "hostaddr", "dbname")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has an @ in the host or the database name: {_ENCODE}.")
    return values


def _has_stray_at(uri: str) -> bool:
    rest = uri.split("://", 1)[1]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    return rest.count("@") > 1 or rest.count("@") > authority.count("@")


def _are_ports(text: str) -> bool:
    ports = [port for port in text.split(",") if port]
    return all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports)


def host_and_port(dsn: str) -> tuple[str, int | str]:
    """Return the host and the port to show, the environment's included; several are joined by commas, in a str.

    Raise what `parse_dsn` raises, and `DatabaseUrlInvalid` when it is the environment that names no host or port.
    """
    values = libpq_defaults() | {key: value for key, value in parse_dsn(dsn).items() if value}
    host = values.get("host") or values.get("hostaddr") or "local socket"
    port = values["port"] if values.get("port", "").strip(",") else "5432"
    if "@" in host or not _are_ports(port):
        raise DatabaseUrlInvalid("PGHOST, PGHOSTADDR or PGPORT (or a service file) holds no host name or no port.")
    return host, int(port) if port.isdigit() else port


def secrets_of(dsn: str) -> set[str]:
    """Return every form in which this connection string's secrets could surface in a text."""
    found = {dsn}
    values = libpq_defaults()
    for password in (values.get("password"), values.get("sslpassword"), *_own_passwords(dsn)):
        if password:
            encoded = quote(password, safe="", errors="surrogateescape")
            found |= {password, unquote(password), encoded, repr(password)[1:-1]}
    return found


def libpq_defaults() -> dict[str, str]:
    """Return what libpq takes from its PG* variables and a service file that they name."""
    return {o.keyword.decode(): o.val.decode(errors="replace") for o in pq.Conninfo.get_defaults() if o.val}


def _own_passwords(dsn: str) -> list[str]:
    try:
        values = parse_dsn(dsn)
    except (DatabaseUrlMissing, DatabaseUrlInvalid):
        values = {}
    passwords = [values.get("password", ""), values.get("sslpassword", "")]
    if "://" in dsn:  # as they are written
        passwords.append(dsn.split("://", 1)[1].rpartition("@")[0].partition(":")[2])
        passwords += re.findall(r"[?&](?:ssl)?password=([^&]+)", dsn)
    return passwords
