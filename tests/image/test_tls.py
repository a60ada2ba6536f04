from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.image.engine import Container, Ended
    from tests.support.migrations_dir import MigrationsDir

    Migrate = Callable[..., Container]

IN_USE = "DO $$ BEGIN ASSERT (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()); END $$;"


def mounted(certificates: Path) -> tuple[str, ...]:
    return (f"--volume={certificates}:/certificates:ro",)


def assert_refused(ended: Ended) -> None:
    assert ended.code == 5
    assert ended.last["duration_ms"] < 5000
    assert "certificate" in ended.last["message"].lower()


def test_verify_full_with_the_servers_own_ca(
    migrate: Migrate, dsn: str, certificates: Path, migrations: MigrationsDir
) -> None:
    migrations.write("002_tls.sql", IN_USE)
    url = f"{dsn}?sslmode=verify-full&sslrootcert=/certificates/ca.crt"
    assert migrate(options=mounted(certificates), DATABASE_URL=url).wait().code == 0


def test_the_systems_cas_can_be_replaced(
    migrate: Migrate, dsn: str, certificates: Path, migrations: MigrationsDir
) -> None:
    migrations.write("002_tls.sql", IN_USE)
    options = (f"--volume={certificates}/ca.crt:/etc/ssl/certs/ca-certificates.crt:ro",)
    assert migrate(options=options, DATABASE_URL=f"{dsn}?sslrootcert=system").wait().code == 0


def test_an_unknown_ca_is_a_permanent_failure(migrate: Migrate, dsn: str) -> None:
    assert_refused(migrate(DATABASE_URL=f"{dsn}?sslrootcert=system").wait())


def test_another_hosts_certificate_is_a_permanent_failure(
    migrate: Migrate, dsn: str, certificates: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("private_server")
    url = "postgres://postgres:s3cret@private/postgres?sslmode=verify-full&sslrootcert=/certificates/ca.crt"
    assert_refused(migrate(options=mounted(certificates), DATABASE_URL=url).wait())
    assert migrate(DATABASE_URL=dsn).wait().code == 0
