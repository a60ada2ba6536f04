"""Parse a connection string into its parameters, its host and port, and its secrets."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from predeploy.connection import libpq
from predeploy.connection.passfile import NOWHERE, causes_warning, find_passfile
from predeploy.errors import DatabaseUrlInvalid, DatabaseUrlMissing
from predeploy.redaction.scrubber import MIN_SECRET_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from predeploy.connection.libpq import ConninfoReader, Option

_SCHEMES = ("postgresql://", "postgres://")
_ENCODE = "percent-encode @ : / ? # and % in the user name and the password (@ is %40, / is %2F)"
# libpq rejects this sslmode, but only after it has added the values from services, passfiles and the environment.
_NEVER_CONNECT = "never-connect"
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")  # characters that are never percent-encoded
_HOST_NAME = re.compile(r"[\w.-]*")
_IDENTITY = ("user", "password", "host", "hostaddr", "port", "dbname")
_UNUSUAL = re.compile(  # what could be a mistake; see dsn_hints.why_unusable
    r"[\x00-\x1f\x7f;,&]|^[$<{\[]|\$[({]|\{\{|^\w+=|\.s\.PGSQL\.|^(?:https?|undefined|null|None)$"
)
_ALSO_SECRET = ("scram_client_key", "scram_server_key")  # in addition to the options that libpq itself marks as secret
_PASSWORD_IN_URI = re.compile(r"[?&](?:ssl)?password=([^&]*)")
_PASSWORD_IN_KEY_VALUE = re.compile(r"\b(?:ssl)?password\s*=\s*(?:'((?:[^'\\]|\\.)*)|((?:[^\s\\]|\\.)*))", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """A connection string that libpq can use.

    `named` holds the parameters in the string itself; `used` holds all parameters that libpq would use, including those
    from PG* variables and service files. `host` and `port` are safe to log; multiple values are separated by commas.
    `secrets` contains the string and its passwords in every form in which they could appear in a text. `passfile` is
    the password file that libpq would read, or "" if the password is known without it.
    """

    text: str
    named: Mapping[str, str]
    used: Mapping[str, str]
    host: str
    port: int | str
    secrets: frozenset[str]
    passfile: str = ""

    def __repr__(self) -> str:
        return f"Dsn(host={self.host!r}, port={self.port!r})"


def parse_dsn(text: str | None) -> Dsn:
    """Parse a URI or a key=value string, and add the values from PG* variables, a service file and a passfile.

    Raise `DatabaseUrlMissing` if the string is empty. Raise `DatabaseUrlInvalid` if libpq cannot parse the string, or
    if libpq would mistake part of an unencoded password for the host, the port or the database. libpq's own messages
    can quote the password, so the messages here are fixed texts, and the original exception is not chained.
    """
    if not text or not text.strip():
        raise DatabaseUrlMissing("DATABASE_URL environment variable is required.")
    reader = libpq.conninfo()
    _refuse_misread_text(text)
    try:
        dsn = _read(text, reader)
    except DatabaseUrlInvalid as error:
        from predeploy.connection import dsn_hints  # most runs do not need the hints

        raise DatabaseUrlInvalid(dsn_hints.why_rejected(text, reader) or str(error)) from None
    if _is_unusual(dsn):
        from predeploy.connection import dsn_hints

        if problem := dsn_hints.why_unusable(text, dsn.named, dsn.used, reader):
            raise DatabaseUrlInvalid(problem)
    return dsn


def _read(text: str, reader: ConninfoReader) -> Dsn:
    named = _named_in(text, reader)
    defaults = reader.defaults()
    passfile = _find_passfile(named, defaults, reader)
    readable = {**named, "passfile": NOWHERE} if causes_warning(passfile) else named
    resolved = _resolve(readable, reader)
    if resolved is None:
        raise DatabaseUrlInvalid(
            "Cannot read the service that DATABASE_URL or PGSERVICE names. Check that the service file (PGSERVICEFILE "
            "or ~/.pg_service.conf) has a section for the service, without unknown keywords."
        )
    used, password = {**resolved[0], **named}, resolved[1]
    host = used.get("host") or used.get("hostaddr") or "local socket"
    port = used["port"] if used.get("port", "").strip(",") else "5432"
    if "@" in host or (host != "local socket" and not _are_hosts(host)) or not _are_ports(port):
        from predeploy.connection import dsn_hints

        problem = "PGHOST, PGHOSTADDR, PGPORT or a service file has an invalid host or port."
        raise DatabaseUrlInvalid(dsn_hints.why_unusable(text, named, used, reader) or problem)
    passwords = [password, *_passwords_by_host(readable, used, reader), *_written_passwords(text)]
    secrets = _secrets(text, used, passwords, defaults)
    number = int(port) if port.isdigit() else port
    return Dsn(text, named, used, host, number, frozenset(secrets), "" if used.get("password") else passfile)


def secrets_in(text: str) -> set[str]:
    """Return the secrets in a connection string that may be malformed, including anything that could be a password."""
    authority = text.partition("://")[2]
    guesses = [re.split("[/@?]", authority.partition(":")[2], maxsplit=1)[0]] if authority else []
    return _secrets(text, {}, [*_written_passwords(text), *guesses], libpq.conninfo().defaults())


def write_conninfo(values: Mapping[str, str]) -> bytes:
    """Return a key=value string; keep empty values so that libpq does not read them from the environment or a file."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in values.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items()).encode()


def _is_unusual(dsn: Dsn) -> bool:
    """Return whether a value could be a mistake, such as a placeholder, so that `dsn_hints` must check it."""
    used = dsn.used
    return "replication" in used or "@:" in dsn.text or any(_UNUSUAL.search(used.get(key, "")) for key in _IDENTITY)


def _refuse_misread_text(text: str) -> None:
    uri = text.startswith(_SCHEMES)
    if uri and _has_stray_at(text):
        raise DatabaseUrlInvalid(f"DATABASE_URL has an unencoded @: {_ENCODE}.")
    if "\0" in text:  # libpq would stop parsing there
        raise DatabaseUrlInvalid("DATABASE_URL contains a NUL byte: save it as plain text in UTF-8.")
    if not _is_unicode(_decoded(text) if uri else text):
        raise DatabaseUrlInvalid("DATABASE_URL is not UTF-8.")


def _named_in(text: str, reader: ConninfoReader) -> dict[str, str]:
    uri = text.startswith(_SCHEMES)
    if "://" in text.split("=", 1)[0] and not uri:
        raise DatabaseUrlInvalid("DATABASE_URL must start with postgresql:// or postgres://, without a driver name.")
    options = reader.parse(text.encode())
    if options is None:
        remedy = _ENCODE if uri else "put values with spaces in single quotes, and escape ' and \\ in values with \\"
        raise DatabaseUrlInvalid(f"DATABASE_URL is malformed: {remedy}.")
    named = _values(options)
    if not _are_ports(named.get("port", "")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has a port that is not a number from 1 to 65535: {_ENCODE}.")
    if any("@" in named.get(key, "") for key in ("host", "hostaddr", "dbname")):
        raise DatabaseUrlInvalid(f"DATABASE_URL has an @ in the host or the database name: {_ENCODE}.")
    if not all(_are_hosts(named.get(key, "")) for key in ("host", "hostaddr")):
        raise DatabaseUrlInvalid(
            "DATABASE_URL has a host that is not a name, address or directory: "
            f"specify the port separately, and {_ENCODE}."
        )
    return named


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


def _values(options: Iterable[Option]) -> dict[str, str]:
    return {keyword: value.decode(errors="replace") for keyword, value, _ in options if value is not None}


def _are_ports(text: str) -> bool:
    ports = [port for port in text.split(",") if port]
    return all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports)


def _are_hosts(text: str) -> bool:
    return all(host.startswith("/") or _HOST_NAME.fullmatch(host) or _is_ipv6(host) for host in text.split(","))


def _is_ipv6(text: str) -> bool:
    import socket  # the import takes 3 ms, and most hosts are names

    address, _, zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return bool(_HOST_NAME.fullmatch(zone))


def _resolve(named: Mapping[str, str], reader: ConninfoReader) -> tuple[dict[str, str], str] | None:
    """Return the parameters that libpq would use, and the password, or None if a service cannot be read."""
    if resolved := reader.resolve(write_conninfo({**named, "sslmode": _NEVER_CONNECT})):
        used = _values(resolved[0])
        if used.get("sslmode") == _NEVER_CONNECT:
            del used["sslmode"]
            password = resolved[1].decode(errors="surrogateescape")
            return {**{key: value for key, value in used.items() if value}, **named}, password
    return None


def _find_passfile(named: Mapping[str, str], defaults: list[Option], reader: ConninfoReader) -> str:
    """Return the password file that libpq would read, without letting libpq read it."""
    if "service" in named and (resolved := _resolve({**named, "password": "unused"}, reader)):
        return find_passfile(named, resolved[0])
    return find_passfile(named, _values(defaults))


def _passwords_by_host(named: Mapping[str, str], used: Mapping[str, str], reader: ConninfoReader) -> list[str]:
    """Return each host's password from the passfile, if there are multiple hosts."""
    if "," not in used.get("host", ""):
        return []
    hosts, ports = used["host"].split(","), used.get("port", "").split(",")
    alone = {key: value for key, value in named.items() if key != "hostaddr"}
    found = (_resolve({**alone, "host": host, "port": ports[n % len(ports)]}, reader) for n, host in enumerate(hosts))
    return [resolved[1] for resolved in found if resolved]


def _written_passwords(text: str) -> list[str]:
    """Return the passwords exactly as they are written in the connection string."""
    authority = text.partition("://")[2]
    if not authority:
        return [quoted or bare for quoted, bare in _PASSWORD_IN_KEY_VALUE.findall(text)]
    password = authority.rpartition("@")[0].partition(":")[2]
    return [password, password.rpartition(":")[2], *_PASSWORD_IN_URI.findall(text)]


def _secrets(text: str, used: Mapping[str, str], passwords: Iterable[str], defaults: list[Option]) -> set[str]:
    marked = {keyword for keyword, _, secret in defaults if secret}.union(_ALSO_SECRET)
    from_options = [v for k, v in (*used.items(), *_values(defaults).items()) if k in marked]
    found = {text}
    for password in filter(None, {*passwords, *from_options}):
        for spelling in _spellings(password):
            found |= {spelling} if len(spelling) >= MIN_SECRET_CHARS else _in_context(used.get("user", ""), spelling)
    return found


def _spellings(secret: str) -> set[str]:
    """Return the secret verbatim, percent-decoded, percent-encoded, and quoted for Python, JSON, libpq and SQL."""
    in_uris = _encoded(secret)
    plain = {secret, _decoded(secret, "replace")}
    found = plain | in_uris | {re.sub("%..", lambda code: code[0].lower(), form) for form in in_uris}
    for text in plain:
        inner = repr(text)[1:-1]
        in_conninfo = text.replace("\\", "\\\\").replace("'", "\\'")
        found |= {inner, inner.replace("'", "\\'"), ascii(text)[1:-1], in_conninfo, text.replace("'", "''")}
        found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return found - {""}


def _decoded(text: str, errors: str = "surrogateescape") -> str:
    if "%" not in text:  # usually avoids importing urllib.parse, which takes 3 ms
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
    return {password, f"{user}:{password}", f":{password}@", f"password={password}", f"password='{password}'"}
