"""If TLS is missing on one side or not trusted, the run ends at once, and the error explains what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from predeploy.connection.connect import wait_for_postgres
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresRefused
from tests.support.certificates import Authority
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.program import Run

ADMISSION = """\
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True)
class Encrypted:
    """A server that requires TLS, and its certificate authority."""

    server: PostgresServer
    authority: Authority

    def dsn(self, options: str, user: str = "postgres") -> str:
        return f"{self.server.dsn(user=user)}?{options}".replace("ROOT", str(self.authority.root))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "own")


def encrypted(authority: Authority, **certificate: int) -> Iterator[Encrypted]:
    with PostgresServer() as server:
        data = server.directory / "data"
        for path, name in zip(authority.issue("db.internal", **certificate), ("crt", "key"), strict=True):
            copy = data / f"server.{name}"
            copy.touch(mode=0o600)
            copy.write_bytes(path.read_bytes())
            server.identity.own(copy)
        ca = data / "root.crt"
        ca.write_bytes(authority.root.read_bytes())
        server.identity.own(ca)
        (data / "pg_hba.conf").write_text(ADMISSION)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\nssl_ca_file = 'root.crt'\nssl_max_protocol_version = 'TLSv1.2'\n")
        server.restart()
        yield Encrypted(server, authority)


@pytest.fixture(scope="module")
def valid(authority: Authority) -> Iterator[Encrypted]:
    yield from encrypted(authority)


@pytest.fixture(scope="module")
def expired(authority: Authority) -> Iterator[Encrypted]:
    yield from encrypted(authority, days=-1)


def refusal(dsn: str) -> PostgresRefused:
    with pytest.raises(PostgresRefused) as caught:
        wait_for_postgres(parse_dsn(dsn), timeout=10).close()
    return caught.value


@pytest.mark.parametrize(
    ("options", "reason", "remedy"),
    [
        pytest.param("sslmode=disable", "not_admitted", "set sslmode=require", id="TLS is wanted"),
        pytest.param("sslmode=verify-full&sslrootcert=ROOT", "tls", "for another host name", id="another host"),
        pytest.param("sslmode=verify-ca&sslrootcert=/nowhere", "tls", "sslrootcert", id="no root"),
        pytest.param("sslmode=require&sslcert=ROOT&sslkey=/nowhere", "tls", "sslcert and sslkey", id="no key"),
        pytest.param("sslmode=require&ssl_min_protocol_version=TLSv1.3", "tls", "no TLS version", id="too old"),
    ],
)
def test_tls_problems_are_reported_with_a_remedy(valid: Encrypted, options: str, reason: str, remedy: str) -> None:
    refused = refusal(valid.dsn(options))
    assert refused.reason == reason
    assert remedy in str(refused)


def test_a_client_certificate_that_the_server_requires(valid: Encrypted) -> None:
    refused = refusal(valid.dsn("sslmode=require", user="certified"))
    assert (refused.reason, "sslcert and sslkey" in str(refused)) == ("tls", True)


def test_an_authority_that_is_not_trusted(valid: Encrypted, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    refused = refusal(valid.dsn(f"sslmode=verify-ca&sslrootcert={stranger.root}"))
    assert (refused.reason, "put the authority's certificate in sslrootcert" in str(refused)) == ("tls", True)


def test_a_certificate_that_has_expired(expired: Encrypted) -> None:
    refused = refusal(expired.dsn("sslmode=verify-ca&sslrootcert=ROOT"))
    assert (refused.reason, "renew the server's certificate" in str(refused)) == ("tls", True)


def test_a_server_without_tls_if_tls_is_required(server: PostgresServer) -> None:
    refused = refusal(f"{server.dsn()}?sslmode=require")
    assert (refused.reason, "enable it on the server" in str(refused)) == ("tls", True)


@pytest.mark.parametrize("host", ["127.0.0.1", "db.internal"])
def test_the_program_runs_with_a_trusted_certificate_and_exits_at_once_with_another(
    valid: Encrypted, run: Callable[..., Run], host: str
) -> None:
    """The connection string contains the address too, so that the name is not looked up."""
    dsn = valid.dsn("sslmode=verify-full&sslrootcert=ROOT&hostaddr=127.0.0.1").replace("@127.0.0.1", f"@{host}")
    ended = run(DATABASE_URL=dsn)
    assert ended.exit_code == (0 if host == "db.internal" else 5)
    assert ended.named("postgres.waiting") == []
