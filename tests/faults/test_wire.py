"""The line that breaks at a message is itself no source of faults, and breaks where it is told to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.wire import Action, Wire
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.stage import Stage
    from tests.faults.wire import Message
    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer

SELECTED = ["Q", "T", "D", "C", "Z"]


@pytest.fixture
def wire(server: PostgresServer) -> Iterator[Wire]:
    with Wire(server.port) as ready:
        yield ready


def connect(database: Database, wire: Wire) -> psycopg.Connection:
    return psycopg.connect(database.dsn_at(wire.port), autocommit=True, prepare_threshold=None)


def run_until(wire: Wire, database: Database, statement: str, kind: str, action: Action) -> list[str]:
    """Run a statement on a line where `action` is taken at its message of that kind; return the kinds it saw."""
    with connect(database, wire) as conn:
        seen = len(wire.messages)
        wire.faults = {seen + SELECTED.index(kind) + 1: lambda _message: action}
        with pytest.raises(psycopg.OperationalError):
            conn.execute(statement.encode())
    return [message.kind for message in wire.messages[seen : seen + len(SELECTED)]]


def test_messages_are_numbered_in_both_directions_and_over_all_connections(wire: Wire, database: Database) -> None:
    wire.begin()
    for _ in range(2):
        with connect(database, wire) as conn:
            conn.execute("SELECT 1")
    messages = wire.end()
    assert [message.number for message in messages] == list(range(1, len(messages) + 1))
    kinds = "".join(message.kind for message in messages if message.kind in SELECTED)
    assert kinds.count("QTDCZ") == 2
    assert [message.sender for message in messages if message.kind in {"startup", "Q", "X"}] == ["client"] * 6
    assert wire.problems == []


def test_a_run_begins_at_one_again(wire: Wire, database: Database) -> None:
    for _ in range(2):
        wire.begin()
        with connect(database, wire):
            pass
        assert wire.messages[0].number == 1
        assert len(wire.backends) == 1


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
def test_the_server_hears_what_it_is_to_hear(
    wire: Wire, database: Database, kind: str, action: Action, heard: bool
) -> None:
    database.execute("CREATE TABLE t (n int)")
    run_until(wire, database, "INSERT INTO t VALUES (1) RETURNING n", kind, action)
    backends = "SELECT FROM pg_stat_activity WHERE pid = ANY (%s)"
    eventually(lambda: not database.query(backends, list(wire.backends)))
    assert database.query("SELECT count(*) FROM t") == [(int(heard),)]
    assert wire.problems == []


def test_the_client_hears_a_message_after_which_the_line_is_cut(wire: Wire, database: Database) -> None:
    with connect(database, wire) as conn:
        wire.faults = {len(wire.messages) + 5: lambda _message: Action.CUT_AFTER}
        assert conn.execute(b"SELECT 1").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            conn.execute(b"SELECT 1")


def test_a_frozen_line_carries_nothing_and_is_not_hung_up(wire: Wire, database: Database) -> None:
    with connect(database, wire) as conn:
        wire.faults = {len(wire.messages) + 1: lambda _message: Action.FREEZE}
        broken: list[psycopg.Error] = []

        def ask() -> None:
            try:
                conn.execute(b"SELECT 1")
            except psycopg.OperationalError as error:
                broken.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: wire.frozen)
        seen = len(wire.messages)
        with pytest.raises(psycopg.OperationalError):  # its own connect_timeout: nobody answers
            psycopg.connect(database.dsn_at(wire.port), connect_timeout=2)
        assert (asking.is_alive(), broken, len(wire.messages)) == (True, [], seen)
        wire.begin()
        asking.join()
        assert broken


def test_what_a_fault_does_is_done_before_anything_moves(wire: Wire, database: Database) -> None:
    order: list[str] = []

    def note(of: str) -> Callable[[Message], Action]:
        def fault(message: Message) -> Action:
            order.append(f"{of} {message.kind}")
            return Action.FORWARD

        return fault

    with connect(database, wire) as conn:
        seen = len(wire.messages)
        wire.faults = {seen + number + 1: note("at") for number in range(len(SELECTED))}
        conn.execute(b"SELECT 1")
        order.append("answered")
    assert order == [*(f"at {kind}" for kind in SELECTED), "answered"]


def test_a_fault_that_goes_wrong_is_the_lines_problem(wire: Wire, database: Database) -> None:
    def broken(_message: Message) -> Action:
        raise ZeroDivisionError

    wire.begin({1: broken})
    with connect(database, wire) as conn:
        conn.execute("SELECT 1")
    assert [type(problem) for problem in wire.problems] == [ZeroDivisionError]


def test_an_encrypted_line_is_encrypted_and_counts_the_same(stage: Stage) -> None:
    kinds = {}
    for path, mode in (("direct", "prefer"), ("tls", "require")):
        wire = stage.wires[path]
        wire.begin()
        with psycopg.connect(stage.database.dsn_at(wire.port), sslmode=mode, autocommit=True) as conn:
            assert conn.pgconn.ssl_in_use == (path == "tls")
            conn.execute("SELECT repeat('x', 100000)")
        kinds[path] = [message.kind for message in wire.end()]
    assert kinds["direct"] == kinds["tls"]
