from __future__ import annotations

import copy
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres_server import PostgresServer


class Database:
    """A database that belongs to one test, and the role that owns it.

    `dsn` is the program's connection string, with `port`: the server's unless the program uses a pooler. Tests always
    connect directly: `query`, `execute` and `connect` act as the owner, like the program under test; methods
    named `admin_...` act in the same database as the superuser. Connections use autocommit by default.
    """

    def __init__(self, server: PostgresServer, port: int | None = None) -> None:
        self.server = server
        self.port = port or server.port
        suffix = secrets.token_hex(4)
        self.name = f"db_{suffix}"
        self.owner = f"owner_{suffix}"
        # Each of these characters is special in a URI; the random part is the same in every encoding.
        self._random_part = secrets.token_hex(8)
        self.password = f"s3cret/@:%#?&+ {self._random_part}"
        self._direct_dsn = server.dsn(self.name, self.owner, self.password)
        self.dsn = self.dsn_at(self.port)

    @property
    def is_pooled(self) -> bool:
        """Whether the program connects through a pooler, which keeps connections after the program has ended."""
        return self.port != self.server.port

    @property
    def secrets(self) -> tuple[str, ...]:
        """Strings that no output may contain."""
        return (self._random_part, self.password, quote(self.password, safe=""), self.dsn, self._direct_dsn)

    def dsn_at(self, port: int) -> str:
        """Return the connection string with another port."""
        return self._direct_dsn.replace(f":{self.server.port}/", f":{port}/")

    def on(self, server: PostgresServer) -> Database:
        """Return the same database on another server that has a copy of it."""
        other = copy.copy(self)
        other.server, other.port = server, server.port
        other._direct_dsn = other.dsn = self.dsn_at(server.port)  # noqa: SLF001  of the same class
        return other

    def connect(self, **kwargs: Any) -> psycopg.Connection:
        return psycopg.connect(self._direct_dsn, **{"autocommit": True, **kwargs})

    def query(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with self.connect() as conn:
            return conn.execute(statement, params or None).fetchall()

    def execute(self, statements: str) -> None:
        with self.connect() as conn:
            conn.execute(statements)

    def admin_connect(self, **kwargs: Any) -> psycopg.Connection:
        return psycopg.connect(self.server.dsn(self.name), **{"autocommit": True, **kwargs})

    def server_connect(self) -> psycopg.Connection:
        """Connect as the superuser, to a database that always exists."""
        return psycopg.connect(self.server.dsn(), autocommit=True)

    def admin_query(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with self.admin_connect() as conn:
            return conn.execute(statement, params or None).fetchall()

    def admin_execute(self, statements: str) -> None:
        with self.admin_connect() as conn:
            conn.execute(statements)


def create_database(server: PostgresServer, port: int | None = None) -> Database:
    """Create a database on `server` that the program reaches at `port`, and the role that owns it."""
    database = Database(server, port)
    name, owner = sql.Identifier(database.name), sql.Identifier(database.owner)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        # Copying the template's files is four times as fast as logging every page, the default since Postgres 15.
        copying = sql.SQL("STRATEGY file_copy" if conn.info.server_version >= 150000 else "")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(database.password)))
        conn.execute(sql.SQL("CREATE DATABASE {} OWNER {} {}").format(name, owner, copying))
    return database


@contextmanager
def fresh_database(server: PostgresServer, port: int | None = None) -> Iterator[Database]:
    """Create a database; drop it and its owner afterwards, even if it is in use."""
    database = create_database(server, port)
    name, owner = sql.Identifier(database.name), sql.Identifier(database.owner)
    try:
        yield database
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(owner))
