from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.postgres_server import PostgresServer


class Database:
    """A database that belongs to one test, and the role that owns it.

    `query`, `execute` and `connect` act as the owner, as the program under test does; what starts with
    `admin_` acts in the same database as the superuser. Connections are in autocommit unless told otherwise.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        suffix = secrets.token_hex(4)
        self.name = f"db_{suffix}"
        self.owner = f"owner_{suffix}"
        # Each of these signs means something in a URI; the random part looks the same however it is written.
        self._random_part = secrets.token_hex(8)
        self.password = f"s3cret/@:%#?&+ {self._random_part}"
        self.dsn = server.dsn(self.name, self.owner, self.password)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no output may hold."""
        return (self._random_part, self.password, quote(self.password, safe=""), self.dsn)

    def dsn_at(self, port: int) -> str:
        """The same database by another port."""
        return self.dsn.replace(f":{self.server.port}/", f":{port}/")

    def connect(self, **kwargs: Any) -> psycopg.Connection:
        return psycopg.connect(self.dsn, **{"autocommit": True, **kwargs})

    def query(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with self.connect() as conn:
            return conn.execute(statement, params or None).fetchall()

    def execute(self, statements: str) -> None:
        with self.connect() as conn:
            conn.execute(statements)

    def admin_connect(self, **kwargs: Any) -> psycopg.Connection:
        return psycopg.connect(self.server.dsn(self.name), **{"autocommit": True, **kwargs})

    def server_connect(self) -> psycopg.Connection:
        """As the superuser, in a database that is always there."""
        return psycopg.connect(self.server.dsn(), autocommit=True)

    def admin_query(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with self.admin_connect() as conn:
            return conn.execute(statement, params or None).fetchall()

    def admin_execute(self, statements: str) -> None:
        with self.admin_connect() as conn:
            conn.execute(statements)


@contextmanager
def fresh_database(server: PostgresServer) -> Iterator[Database]:
    database = Database(server)
    name, owner = sql.Identifier(database.name), sql.Identifier(database.owner)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        # Copying the template's files is four times as fast as logging every page, the default since Postgres 15.
        copying = sql.SQL("STRATEGY file_copy" if conn.info.server_version >= 150000 else "")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(database.password)))
        conn.execute(sql.SQL("CREATE DATABASE {} OWNER {} {}").format(name, owner, copying))
    try:
        yield database
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(owner))
