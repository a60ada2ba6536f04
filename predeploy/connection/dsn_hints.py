"""Explain what is wrong with a connection string; imported only if it was rejected or contains something unusual.

The messages are fixed texts. They may contain names of libpq parameters and names from the tables in this file and in
`foreign_parameters`, but no other part of a malformed connection string, because it could be part of a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from predeploy.connection.foreign_parameters import removal_or_change

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from predeploy.connection.libpq import ConninfoReader

_SCHEMES = ("postgresql://", "postgres://")
_URI = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_COMPONENTS = {
    "user": "The user name",
    "password": "The password",
    "host": "The host",
    "hostaddr": "The address in hostaddr",
    "port": "The port",
    "dbname": "The database name",
}
_EMPTY = ("undefined", "null", "None")  # what programs write for an unset variable
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# Template placeholders. The last four must contain a typical word, because a password could have the same form.
_WORD = r"(?i:pass|pwd|user|host|port|name|database|db|secret|url|your)"
_PLACEHOLDERS = {
    "${{...}}": r"\$\{\{-?\s*[A-Za-z_.$][^{}]+\}\}",
    "{{...}}": r"\{\{-?\s*[A-Za-z_.$][^{}]+\}\}",
    "${...}": r"\$\{[A-Za-z_][\w.:/~-]*(?:[-+?=][^{}]*)?\}",
    "$(...)": r"\$\([A-Za-z_][\w.-]*\)",
    "<...>": rf"<[A-Za-z_ -]*{_WORD}[A-Za-z_ -]*>",
    "[...]": rf"\[[A-Za-z_ -]*{_WORD}[A-Za-z_ -]*\]",
    "{...}": rf"\{{[A-Za-z_ -]*{_WORD}[A-Za-z_ -]*\}}",
    "$NAME": rf"\$(?=[A-Z_]*{_WORD})[A-Z_]+\b",
}
_ANY_PLACEHOLDER = re.compile("|".join(_PLACEHOLDERS.values()))
_FILLED = "filledplaceholder"  # replaces placeholders, so that libpq can assign each one to a component

_PSQL = f"DATABASE_URL begins with psql: write only the connection string, {_URI}, without psql or quotation marks."
_ASSIGNMENT = "write only the connection string that follows it, without quotation marks."
_QUOTES = (
    "DATABASE_URL begins with a quotation mark: remove the quotation marks around it. docker --env-file and YAML block "
    "scalars keep them as part of the value."
)
_ADO = f"write {_URI}, or separate host=... port=... dbname=... user=... password=... with spaces."
_ADO_KEYS = re.compile(
    r"(?:host|server|data source|address|addr|user id|userid|username|user name|uid|user|password|pwd|port|database"
    r"|initial catalog|driver)\s*=",
    re.IGNORECASE,
)
_UNRESOLVED = "write the connection string, or have the platform resolve the reference."
_BEGINNINGS: dict[str, str] = {
    "psql ": _PSQL,
    "export ": f"DATABASE_URL begins with export: {_ASSIGNMENT}",
    "DATABASE_URL=": f"The value of DATABASE_URL begins with DATABASE_URL=: {_ASSIGNMENT}",
    "DATABASE_URL:": f"The value of DATABASE_URL begins with the variable's name and a colon: {_ASSIGNMENT}",
    "- DATABASE_URL": f"The value of DATABASE_URL begins with DATABASE_URL=: {_ASSIGNMENT}",
    **dict.fromkeys(('"', "'", "`", "\u201c", "\u201d", "\u2018", "\u2019"), _QUOTES),
    "\ufeff": "DATABASE_URL begins with a byte order mark: save the file as UTF-8 without one.",
    "jdbc:": f"DATABASE_URL is a JDBC URL (jdbc:...): write {_URI}.",
    "r2dbc:": f"DATABASE_URL is an R2DBC URL (r2dbc:...): write {_URI}.",
    "pgsql:host": f"DATABASE_URL is a PDO connection string (pgsql:host=...;port=...): {_ADO}",
    "https://": f"DATABASE_URL is a web address (https://): copy the connection string, {_URI}.",
    "http://": f"DATABASE_URL is a web address (http://): copy the connection string, {_URI}.",
    '{"': f"DATABASE_URL is a JSON object: write {_URI}.",
    "file:": "DATABASE_URL is a file URL (file:): set DATABASE_URL_FILE to the file's path instead.",
    **{
        start: f"DATABASE_URL begins with {start}, an unresolved reference to a secret: {_UNRESOLVED}"
        for start in ("arn:aws:", "op://", "vault:", "ref+", "@Microsoft.KeyVault", "secretref:", "sm://")
    },
    "prisma://": "DATABASE_URL begins with prisma://: use the direct connection string, postgresql://...",
    "prisma+postgres://": "DATABASE_URL begins with prisma+postgres://: use the direct connection string, "
    "postgresql://...",
}
_ALIASES = ("postgis", "pgsql", "psql", "pg", "postgre", "ecto", "cockroachdb", "cockroach", "redshift", "timescaledb")
_DRIVERS = ("psycopg2", "psycopg2cffi", "psycopg", "psycopg_async", "asyncpg", "pg8000", "aiopg", "pygresql")
_OTHERS = ("mysql", "mysql2", "mariadb", "mongodb", "mongodb+srv", "redis", "rediss", "sqlite", "sqlserver", "mssql")


def why_rejected(text: str, reader: ConninfoReader) -> str | None:
    """Return what to change in a string that cannot be used, or None if no better message is known."""
    if hint := _of_encoding(text) or _of_beginning(text):
        return hint
    if (named := _parse_filled(text, reader)) is None:
        keywords = [keyword for keyword, _, _ in reader.defaults()]
        return _of_query(text, keywords) if text.startswith(_SCHEMES) else _of_key_values(text, keywords)
    return _unfilled_component(text, named) or _of_values(text, named, named) or _of_host(text)


def why_unusable(text: str, named: Mapping[str, str], used: Mapping[str, str], reader: ConninfoReader) -> str | None:
    """Return what to change in a string that libpq can parse but that must be a mistake, or None."""
    filled = _parse_filled(text, reader) or {}
    return _unfilled_component(text, filled) or _of_values(text, named, used) or _of_lists(used)


def _parse_filled(text: str, reader: ConninfoReader) -> dict[str, str] | None:
    """Parse the string as if its placeholders were filled in; return None if it is still malformed."""
    options = reader.parse(_ANY_PLACEHOLDER.sub(_FILLED, text).encode())
    if options is None:
        return None
    return {keyword: value.decode(errors="replace") for keyword, value, _ in options if value is not None}


# The beginning and the whole string


def _of_beginning(text: str) -> str | None:
    stripped = text.strip()
    if shape := placeholder_shape(stripped):
        return _unfilled("DATABASE_URL", shape)
    if text[:1].isspace():
        return "DATABASE_URL begins with white space: remove it."
    if not text.startswith(_SCHEMES) and (match := _ANY_PLACEHOLDER.match(text)):
        return _unfilled("The beginning of DATABASE_URL", placeholder_shape(match[0]) or "")
    found = next((hint for start, hint in _BEGINNINGS.items() if text.startswith(start)), None)
    if found or text.startswith(_SCHEMES):
        return found
    return _of_assignment(text) or _of_scheme(text) or _of_semicolons(text)


def _of_assignment(text: str) -> str | None:
    """Recognise NAME=postgresql://, where NAME is not a libpq parameter such as dbname."""
    if re.match(r"[A-Z][A-Z0-9_]*\s*=\s*[\"']?(?:postgres(?:ql)?|\$\{?)", text):
        return f"DATABASE_URL begins with the name of a variable: {_ASSIGNMENT}"
    return None


def _of_scheme(text: str) -> str | None:
    scheme, separator, _ = text.partition("://")
    if separator and "=" not in scheme:
        name = scheme.lower()
        dialect, _, driver = name.partition("+")
        if dialect in {"postgresql", "postgres"} and driver in _DRIVERS:
            return f"DATABASE_URL begins with {dialect}+{driver}://: remove +{driver}, which names a driver."
        if dialect in {"postgresql", "postgres"} and not driver:
            return f"DATABASE_URL must begin with {name}:// in lower case."
        if name in _ALIASES:
            return f"DATABASE_URL begins with {name}://: write postgresql:// instead."
        if name in _OTHERS:
            return f"DATABASE_URL begins with {name}://, but pg-predeploy supports only Postgres: write {_URI}."
        return None  # the general message about schemes applies
    if re.fullmatch(r"(?:/[\w.-]+)+", text):
        return "DATABASE_URL is a path: if the file contains the connection string, set DATABASE_URL_FILE instead."
    if re.match(r"postgres(?:ql)?:?/?", text) and "=" not in text.partition(":")[0]:
        return "DATABASE_URL must begin with postgresql://, with a colon and two slashes."
    if not re.match(r"[^\s=:@/]+\s*=", text):
        return f"DATABASE_URL is neither a URI nor key=value pairs: write {_URI}."
    return None


def _of_semicolons(text: str) -> str | None:
    if _ADO_KEYS.match(text) and (";" in text or not re.match(r"[a-z]+\s*=", text)):
        return f"DATABASE_URL is an ADO.NET connection string (Host=...;Port=...): {_ADO}"
    return None


def _of_encoding(text: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9+/_\s-]{12,}={0,2}\s*", text):
        return None
    from base64 import b64decode

    compact = re.sub(r"\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = b64decode(compact + "=" * (-len(compact) % 4))
    except ValueError:
        return None
    if decoded.lstrip(b" \"'").lower().startswith((b"postgres", b"jdbc:", b"host", b"user", b"dbname", b"psql ")):
        return (
            "DATABASE_URL is base64-encoded: write it as plain text. In a Kubernetes Secret, encode the value in data "
            "only once, or use stringData."
        )
    return None


# Placeholders


def placeholder_shape(text: str) -> str | None:
    """Return the form of the placeholder, such as `${...}`, if the whole text is one."""
    return next((shape for shape, pattern in _PLACEHOLDERS.items() if re.fullmatch(pattern, text)), None)


def _unfilled(what: str, shape: str) -> str:
    return (
        f"{what} is a placeholder that was not filled in ({shape}): write the value, or define the variable that it "
        "names."
    )


def _unfilled_component(text: str, filled: Mapping[str, str]) -> str | None:
    """Find a placeholder anywhere in the host, port or database name, or as the whole user name or password."""
    for key, what in _COMPONENTS.items():
        value = filled.get(key, "")
        if value == _FILLED or (_FILLED in value and key not in {"user", "password"}):
            found = _ANY_PLACEHOLDER.findall(text)
            shape = placeholder_shape(found[0]) if len(found) == 1 else None
            return _unfilled(f"{what} in DATABASE_URL", shape or "such as ${...}")
    return None


# The query of a URI, and key=value pairs


def _of_query(uri: str, keywords: Iterable[str]) -> str | None:
    uri = _ANY_PLACEHOLDER.sub(_FILLED, uri)
    if " " in uri.strip():
        return "DATABASE_URL contains a space: remove it, or write it as %20."
    query = uri.partition("?")[2]
    if "&amp;" in query:
        return "DATABASE_URL contains &amp; after the ?: write & between parameters."
    if re.search(r"(?:^|=[^&]*)\?\w+=", query):
        return "DATABASE_URL has a second ?: write & between parameters, and %3F for a ? in a value."
    if re.search(r"=[^&=]*;\w+=", query):
        return "DATABASE_URL has a semicolon between parameters: write &."
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    known = [(name, separator, value) for name, separator, value in pairs if name in keywords]
    for name, separator, value in known:
        if not separator:
            return f"DATABASE_URL has {name} without a value after the ?: write {name}=VALUE, or remove it."
        if "=" in value:
            return f"DATABASE_URL has an unencoded = in the value of {name}: write %3D."
    strangers = [name for name, _, value in pairs if name not in keywords and (name, value) != ("ssl", "true")]
    return _of_unknown(strangers, keywords, "%3D", "percent-encode ? and & in passwords (? is %3F, & is %26)")


_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|(?=\s|$))", re.DOTALL)


def _of_key_values(text: str, keywords: Iterable[str]) -> str | None:
    names, at = [], 0
    while match := _PAIR.match(text, at):
        names.append(match[1])
        at = match.end()
    if text[at:].strip() or not names:
        return None
    strangers = [name for name in names if name not in keywords]
    return _of_unknown(strangers, keywords, "=", "put values with spaces in single quotes")


def _of_unknown(names: Iterable[str], keywords: Iterable[str], equals: str, encode: str) -> str | None:
    """Return how to change or remove each parameter that libpq does not support; name only the well-known ones."""
    found = [removal_or_change(name, keywords, equals) for name in names]
    if not found:
        return None
    removed = sorted({remedy[0] for remedy in found if remedy and remedy[0]})
    changes = [f"remove {', '.join(removed)}"] if removed else []
    changes += sorted({remedy[1] for remedy in found if remedy and remedy[1]})
    if not all(found):
        changes.append(f"remove the unknown parameter, or {encode}")
    what = "a parameter" if len(found) == 1 else "parameters"
    return f"DATABASE_URL has {what} that libpq does not support: {'; '.join(changes)}."


# The values


def _of_values(text: str, named: Mapping[str, str], used: Mapping[str, str]) -> str | None:
    if used.get("replication", "0").lower() not in {"", "0", "false", "off", "no"}:
        return "The connection string sets replication, but a replication connection cannot run migrations: remove it."
    for key, what in _COMPONENTS.items():
        value = used.get(key, "")
        where = "DATABASE_URL" if key in named else "a PG* variable or a service file"
        if shape := placeholder_shape(value):
            return _unfilled(f"{what} in {where}", shape)
        if hint := _of_line_break(text, f"{what} in {where}", value):
            return hint
        if value in _EMPTY and key in {"host", "port"}:
            return f"{what} in {where} is {value}: define the variable that supplies it."
    return _of_separators(text, named) or _of_sockets(text, used)


def _of_line_break(text: str, what: str, value: str) -> str | None:
    """Find a line break at the end, which files and Secrets often have, or a raw control character in a URI."""
    if not (control := _CONTROL.search(value)):
        return None
    kind = "a line break" if control[0] in "\r\n" else "a control character"
    if value[-1] in "\r\n":
        return f"{what} ends with a line break: remove it, for example by using printf instead of echo."
    if text.startswith(_SCHEMES) and control[0] in text:
        return f"{what} contains {kind}: remove it, or percent-encode it if it is intended (a line break is %0A)."
    return None


def _of_separators(text: str, named: Mapping[str, str]) -> str | None:
    """Find parameters that libpq has read as part of another value."""
    if text.startswith(_SCHEMES):
        if named.get("host") in {"http", "https"} and named.get("dbname", "").startswith("/"):
            return "DATABASE_URL has http:// or https:// before the host: write only the host."
        if re.search(r"&[a-z_]+=", named.get("dbname", "")):
            return "DATABASE_URL has an & before its first parameter: write ? instead."
        return None
    for key in _COMPONENTS.keys() - {"password"}:
        value = named.get(key, "")
        if re.search(r";\s*(?:host|hostaddr|port|dbname|user|password|sslmode)\s*=", value, re.IGNORECASE):
            return f"DATABASE_URL has semicolons between parameters: {_ADO}"
    for key in _COMPONENTS:
        if re.search(rf"\b{key}\s*=\s+(?:host|hostaddr|port|dbname|user|password|sslmode)\s*=", text):
            return f"DATABASE_URL has no value after {key}=: write the value, or remove {key}=."
    return None


def _of_sockets(text: str, used: Mapping[str, str]) -> str | None:
    if re.search(r"/\.s\.PGSQL\.\d+(?:,|$)", used.get("host", "")):
        return (
            "The host is a socket file (.s.PGSQL.PORT): write its directory, without the file name, and PORT as the "
            "port."
        )
    authority = text.partition("://")[2].split("/")[0].split("?")[0]
    if re.search(r"@:\d+$", authority) and not (used.get("host") or used.get("hostaddr")):
        return (
            "DATABASE_URL has no host between @ and the port: write the host, and check the variable that supplies it. "
            "For a local socket, write ?host=/DIRECTORY."
        )
    return None


def _of_lists(used: Mapping[str, str]) -> str | None:
    """Compare the lengths of the lists as libpq does; a single port is used for all hosts."""
    hosts, addresses, ports = (len(used.get(key, "").split(",")) for key in ("host", "hostaddr", "port"))
    if used.get("host") and used.get("hostaddr") and hosts != addresses:
        return "host and hostaddr have different numbers of entries: write one address per host."
    if ports not in {1, addresses if used.get("hostaddr") else hosts}:
        return "host and port have different numbers of entries: write one port per host, or one port for all."
    return None


def _of_host(text: str) -> str | None:
    """Find an IPv6 address without brackets in a URI."""
    if not text.startswith(_SCHEMES):
        return None
    from ipaddress import AddressValueError, IPv6Address

    host = re.split("[/?]", text.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    for candidate in (host, host.rpartition(":")[0]):
        try:
            IPv6Address(candidate)
        except AddressValueError:
            continue
        return "DATABASE_URL has an IPv6 address without brackets: write [ADDRESS]:PORT."
    return None
