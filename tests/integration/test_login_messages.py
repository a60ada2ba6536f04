"""What poolers, providers and other programs reply to a login: the cause, the exit code, and their own message."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import LOOPBACK, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.program import Run

PERMANENT = {
    "Supavisor": ("XX000", "Tenant or user not found", "ends in .PROJECT_REFERENCE"),
    "Supavisor, newer": ("XX000", "(ENOTFOUND) tenant/user postgres.abc not found", "PROJECT_REF"),
    "pgcat": ("58000", 'No pool configured for database: "a", user: "b"', "has no pool"),
    "RDS Proxy": ("28000", "This RDS proxy has no credentials for the role app.", "add a secret"),
    "Neon, no SNI": (
        "XX000",
        "Endpoint ID is not specified. Either please upgrade",
        "%3DENDPOINT_ID",
    ),
    "Neon, disabled": (
        "XX000",
        "The endpoint has been disabled. Enable it using Neon API and retry.",
        "enable",
    ),
    "Neon, quota": (
        "XX000",
        "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits.",
        "quota is used up",
    ),
    "CockroachDB": (
        "08004",
        "codeParamsRoutingFailed: missing cluster identifier",
        "--cluster%3D",
    ),
    "PAM": ("28000", 'PAM authentication failed for user "app"', "request a new token"),
    "Cloud SQL": ("28000", 'Cloud SQL IAM user authentication failed for user "app"', "a new token"),
    "LDAP": ("28000", 'LDAP authentication failed for user "app"', "request a new token"),
}
RETRYABLE = {
    "Supavisor, session mode": (
        "XX000",
        "MaxClientsInSessionMode: max clients reached - in Session mode",
        "too_many_clients",
    ),
    "Supavisor, limit": ("XX000", "Max client connections reached", "too_many_clients"),
    "Supavisor, pool": ("XX000", "Unable to check out process from the pool due to timeout", "pooler"),
    "RDS Proxy": ("57P01", "Timed-out waiting to acquire database connection", "pooler"),
    "unknown": ("XX000", "the moon is in the wrong phase", "unknown"),
}


@contextmanager
def refusing(database: Database, sqlstate: str, text: str) -> Iterator[str]:
    """Yield a connection string whose server refuses every login."""
    with Proxy(database.port) as proxy:
        proxy.refusals = [(sqlstate, text)] * 100
        yield database.dsn_at(proxy.port)


@pytest.mark.parametrize("name", PERMANENT)
def test_a_reply_that_waiting_does_not_change_ends_the_run(
    name: str, run: Callable[..., Run], database: Database
) -> None:
    sqlstate, text, says = PERMANENT[name]
    with refusing(database, sqlstate, text) as dsn:
        ended = run(DATABASE_URL=dsn)
    assert ended.exit_code == 5
    assert says in ended.report["message"]


@pytest.mark.parametrize("name", RETRYABLE)
def test_a_temporary_or_unknown_reply_is_retried(name: str, run: Callable[..., Run], database: Database) -> None:
    sqlstate, text, reason = RETRYABLE[name]
    with refusing(database, sqlstate, text) as dsn:
        ended = run(DATABASE_URL=dsn, MIGRATE_WAIT_TIMEOUT="0.5")
    assert ended.exit_code == 3
    assert {waiting["reason"] for waiting in ended.named("postgres.waiting")} == {reason}


def test_an_unknown_reply_is_shown_without_values_from_the_connection_string(
    run: Callable[..., Run], database: Database
) -> None:
    text = f"login of {database.owner} to {database.name} with '{database.password}' refused: \"hunter2\" (code 17)"
    with refusing(database, "XX000", text) as dsn:
        ended = run(DATABASE_URL=dsn, MIGRATE_WAIT_TIMEOUT="0.5")
    assert "the login failed: login of *** to *** with '***" in ended.report["message"]
    assert "(code 17) (SQLSTATE XX000)" in ended.report["message"]
    for value in (database.owner, database.name, database.password, "hunter2"):
        assert value not in ended.stdout


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"J\x00\x00\x00\x0a8.0.36\x00"], ids=["HTTP", "MySQL"]
)
@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
def test_a_server_that_is_not_postgres_is_named(reply: bytes, sslmode: str, run: Callable[..., Run]) -> None:
    with answering(reply) as port:
        ended = run(DATABASE_URL=f"postgresql://app:secret@{LOOPBACK}:{port}/app?sslmode={sslmode}")
    assert (ended.exit_code, "is not Postgres" in ended.report["message"]) == (5, True)


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """Yield the port of a server that sends the same reply to every client."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.recv(1024)
                    client.sendall(reply)
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
