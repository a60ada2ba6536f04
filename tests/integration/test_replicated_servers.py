"""The pair of servers for failover tests: which commits the standby has when it is promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.eventually import eventually
from tests.support.replication import ReplicatedServers, Template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with Template() as server:
        ask(server, "CREATE TABLE t (n int)")
        server.finish()
        yield server


def ask(server: PostgresServer, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_a_detached_standby_lacks_the_last_commits_and_is_writable_when_promoted(template: Template) -> None:
    with ReplicatedServers(template) as pair:
        ask(pair.primary, "INSERT INTO t VALUES (1)")
        eventually(lambda: ask(pair.standby, "SELECT n FROM t") == [(1,)])
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ask(pair.standby, "INSERT INTO t VALUES (2)")
        pair.detach()
        ask(pair.primary, "INSERT INTO t VALUES (2)")
        pair.stop_primary("immediate")
        pair.promote()
        ask(pair.standby, "INSERT INTO t VALUES (3)")
        assert ask(pair.standby, "SELECT n FROM t ORDER BY n") == [(1,), (3,)]


@pytest.mark.parametrize("how", ["fast", "kill"])
def test_a_standby_has_every_commit_after_a_shutdown_and_with_synchronous_replication(
    template: Template, how: str
) -> None:
    with ReplicatedServers(template, synchronous=how == "kill") as pair:
        for number in range(20):
            ask(pair.primary, f"INSERT INTO t VALUES ({number})")
        pair.stop_primary("fast" if how == "fast" else "kill")
        pair.promote()
        assert ask(pair.standby, "SELECT count(*) FROM t") == [(20,)]
