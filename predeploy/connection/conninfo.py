"""Connection strings as libpq itself reads them: by libpq alone where it can be had, else by psycopg, all the same."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from predeploy.connection import libpq

if TYPE_CHECKING:
    from psycopg.pq import ConninfoOption

    from predeploy.connection.libpq import Option


def parse(dsn: str) -> list[Option] | None:
    """Return every option, with its value where the connection string names it; None for a malformed one."""
    if library := libpq.load():
        return library.parse(dsn.encode())
    from psycopg import OperationalError, pq

    with suppress(OperationalError):
        return _options(pq.Conninfo.parse(dsn.encode()))
    return None


def defaults() -> list[Option]:
    """Return every option with what libpq takes from its PG* variables and a service file that they name."""
    if library := libpq.load():
        return library.defaults()
    from psycopg import pq

    return _options(pq.Conninfo.get_defaults())


def resolve(values: dict[str, str]) -> tuple[list[Option], bytes] | None:
    """Return all options that a login with these would use, and the password that libpq has found.

    It is begun, not made: where `values` are good for one it has to be kept from going on.
    """
    conninfo = written(values)
    if library := libpq.load():
        return library.resolve(conninfo)
    from psycopg import OperationalError, pq

    with suppress(OperationalError):
        conn = pq.PGconn.connect_start(conninfo)
        try:
            return _options(conn.info), conn.password
        finally:
            conn.finish()
    return None


def written(values: dict[str, str]) -> bytes:
    """Return a connection string that names these values; an empty one is named, too: libpq then asks nobody else."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in values.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items()).encode()


def _options(found: list[ConninfoOption]) -> list[Option]:
    return [(option.keyword.decode(), option.val, option.dispchar == b"*") for option in found]
