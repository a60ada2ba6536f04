"""The fault proxy causes no faults of its own, and injects faults at the requested messages."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.fault_proxy import Action, FaultProxy
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.fault_proxy import Message
    from tests.faults.stage import Stage
    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer

SELECTED = ["Q", "T", "D", "C", "Z"]


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as ready:
        yield ready


def connect(database: Database, proxy: FaultProxy) -> psycopg.Connection:
    return psycopg.connect(database.dsn_at(proxy.port), autocommit=True, prepare_threshold=None)


def run_until(proxy: FaultProxy, database: Database, statement: str, kind: str, action: Action) -> list[str]:
    """Run a statement through a proxy that takes `action` at its message of the given kind; return the kinds it saw."""
    with connect(database, proxy) as conn:
        seen = len(proxy.messages)
        proxy.faults = {seen + SELECTED.index(kind) + 1: lambda _message: action}
        with pytest.raises(psycopg.OperationalError):
            conn.execute(statement.encode())
    return [message.kind for message in proxy.messages[seen : seen + len(SELECTED)]]


def test_messages_are_numbered_in_both_directions_and_over_all_connections(
    proxy: FaultProxy, database: Database
) -> None:
    proxy.begin()
    for _ in range(2):
        with connect(database, proxy) as conn:
            conn.execute("SELECT 1")
    messages = proxy.end()
    assert [message.number for message in messages] == list(range(1, len(messages) + 1))
    kinds = "".join(message.kind for message in messages if message.kind in SELECTED)
    assert kinds.count("QTDCZ") == 2
    assert [message.sender for message in messages if message.kind in {"startup", "Q", "X"}] == ["client"] * 6
    assert proxy.problems == []


def test_message_numbers_restart_at_one_for_each_run(proxy: FaultProxy, database: Database) -> None:
    for _ in range(2):
        proxy.begin()
        with connect(database, proxy):
            pass
        assert proxy.messages[0].number == 1
        assert len(proxy.backends) == 1


@pytest.mark.parametrize(
    ("kind", "action", "heard"),
    [
        ("Q", Action.CUT_BEFORE, False),
        ("Q", Action.CUT_LINE, False),
        ("T", Action.CUT_BEFORE, True),
        ("Q", Action.CUT_CLIENT, True),
        ("D", Action.CUT_CLIENT, True),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_server_receives_exactly_the_messages_that_the_action_allows(
    proxy: FaultProxy, database: Database, kind: str, action: Action, heard: bool
) -> None:
    database.execute("CREATE TABLE t (n int)")
    run_until(proxy, database, "INSERT INTO t VALUES (1) RETURNING n", kind, action)
    backends = "SELECT FROM pg_stat_activity WHERE pid = ANY (%s)"
    eventually(lambda: not database.query(backends, list(proxy.backends)))
    assert database.query("SELECT count(*) FROM t") == [(int(heard),)]
    assert proxy.problems == []


def test_the_client_receives_the_message_after_which_the_connection_is_cut(
    proxy: FaultProxy, database: Database
) -> None:
    with connect(database, proxy) as conn:
        proxy.faults = {len(proxy.messages) + 5: lambda _message: Action.CUT_AFTER}
        assert conn.execute(b"SELECT 1").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            conn.execute(b"SELECT 1")


def test_a_frozen_proxy_forwards_nothing_and_closes_nothing(proxy: FaultProxy, database: Database) -> None:
    with connect(database, proxy) as conn:
        proxy.faults = {len(proxy.messages) + 1: lambda _message: Action.FREEZE}
        broken: list[psycopg.Error] = []

        def ask() -> None:
            try:
                conn.execute(b"SELECT 1")
            except psycopg.OperationalError as error:
                broken.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: proxy.frozen)
        seen = len(proxy.messages)
        with pytest.raises(psycopg.OperationalError):  # connect_timeout expires without an answer
            psycopg.connect(database.dsn_at(proxy.port), connect_timeout=2)
        assert (asking.is_alive(), broken, len(proxy.messages)) == (True, [], seen)
        proxy.begin()
        asking.join()
        assert broken


def test_a_fault_is_complete_before_anything_is_forwarded(proxy: FaultProxy, database: Database) -> None:
    order: list[str] = []

    def note(of: str) -> Callable[[Message], Action]:
        def fault(message: Message) -> Action:
            order.append(f"{of} {message.kind}")
            return Action.FORWARD

        return fault

    with connect(database, proxy) as conn:
        seen = len(proxy.messages)
        proxy.faults = {seen + number + 1: note("at") for number in range(len(SELECTED))}
        conn.execute(b"SELECT 1")
        order.append("answered")
    assert order == [*(f"at {kind}" for kind in SELECTED), "answered"]


def test_an_exception_in_a_fault_is_reported_as_a_problem_of_the_proxy(proxy: FaultProxy, database: Database) -> None:
    def broken(_message: Message) -> Action:
        raise ZeroDivisionError

    proxy.begin({1: broken})
    with connect(database, proxy) as conn:
        conn.execute("SELECT 1")
    assert [type(problem) for problem in proxy.problems] == [ZeroDivisionError]


def test_an_encrypted_connection_has_the_same_message_numbers(stage: Stage) -> None:
    kinds = {}
    for path, mode in (("direct", "prefer"), ("tls", "require")):
        proxy = stage.proxies[path]
        proxy.begin()
        with psycopg.connect(stage.database.dsn_at(proxy.port), sslmode=mode, autocommit=True) as conn:
            assert conn.pgconn.ssl_in_use == (path == "tls")
            conn.execute("SELECT repeat('x', 100000)")
        kinds[path] = [message.kind for message in proxy.end()]
    assert kinds["direct"] == kinds["tls"]


def test_a_proxy_in_front_of_two_servers_numbers_their_messages_together_and_can_refuse_one(
    server: PostgresServer, database: Database
) -> None:
    with FaultProxy(server.port, None, server.port) as proxy:
        dsns = [f"{database.dsn_at(port)}?sslmode=disable&gssencmode=disable" for port in proxy.ports]
        for dsn in dsns:
            psycopg.connect(dsn).close()
        started = [message.number for message in proxy.messages if message.kind == "startup"]
        assert [number == 1 for number in started] == [True, False]

        def refuse(_message: Message) -> Action:
            proxy.refuse(0)
            return Action.FORWARD

        proxy.faults = {len(proxy.messages) + 1: refuse}
        psycopg.connect(dsns[1]).close()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(dsns[0])
        psycopg.connect(dsns[1]).close()
