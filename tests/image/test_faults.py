"""Network and server faults, caused in the containers."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.image.conftest import start_server
from tests.image.engine import docker, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.image.engine import Container
    from tests.support.migrations_dir import MigrationsDir

    Migrate = Callable[..., Container]

PRIVATE = "postgres://postgres:s3cret@private/postgres"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes a container's packet filter: needs root")


def test_a_server_that_starts_late_is_waited_for(migrate: Migrate, network: str, certificates: Path) -> None:
    runner = migrate(DATABASE_URL="postgres://postgres:s3cret@late/postgres")
    runner.until("postgres.waiting")
    with start_server(network, certificates, "late"):
        ended = runner.wait()
    assert (ended.code, ended.last["applied"]) == (0, 1)


@needs_root
def test_the_wait_for_a_server_that_drops_packets_ends_in_time(migrate: Migrate, private_server: Container) -> None:
    with private_server.firewall("INPUT", "-p", "tcp", "--dport", "5432", "-j", "DROP"):
        ended = migrate(DATABASE_URL=PRIVATE, MIGRATE_WAIT_TIMEOUT="3s").wait()
    assert ended.code == 3
    assert 2500 < ended.last["duration_ms"] < 7000


@needs_root
def test_dropped_packets_during_a_migration_are_detected(
    migrate: Migrate, private_server: Container, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(300);")
    runner = migrate(DATABASE_URL=PRIVATE, MIGRATE_WAIT_TIMEOUT="3s")
    runner.until("migration.applied")
    with private_server.firewall("INPUT", "-p", "tcp", "--dport", "5432", "-j", "DROP"):
        ended = runner.wait(timeout=90)
    assert (ended.code, ended.last["applied"]) == (6, 1)


@needs_root
def test_a_connection_reset_during_a_migration_is_followed_by_a_reconnect(
    migrate: Migrate, private_server: Container, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(3);")
    runner = migrate(DATABASE_URL=PRIVATE)
    runner.until("migration.applied")
    reset = ("INPUT", "-p", "tcp", "--dport", "5432", "-j", "REJECT", "--reject-with", "tcp-reset")
    with private_server.firewall(*reset):
        private_server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^BEGIN'")
        time.sleep(1)
    ended = runner.wait()
    assert (ended.code, ended.last["applied"]) == (0, 2)
    assert len(ended.named("lock.acquired")) == 2


def test_a_server_paused_during_a_migration_is_waited_for(
    migrate: Migrate, private_server: Container, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(2);")
    runner = migrate(DATABASE_URL=PRIVATE)
    runner.until("migration.applied")
    docker("pause", private_server.name)
    time.sleep(4)
    docker("unpause", private_server.name)
    ended = runner.wait()
    assert (ended.code, ended.last["applied"]) == (0, 2)


def test_sigterm_ends_a_run_whose_server_is_paused(
    migrate: Migrate, private_server: Container, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(60);")
    runner = migrate(DATABASE_URL=PRIVATE)
    runner.until("migration.applied")
    docker("pause", private_server.name)
    docker("stop", "--time=9", runner.name)
    docker("unpause", private_server.name)
    assert runner.wait().code == 143


def test_two_runners_apply_every_file_once(migrate: Migrate, server: Container, database: str, dsn: str) -> None:
    ended = [runner.wait() for runner in [migrate(DATABASE_URL=dsn) for _ in range(4)]]
    assert [end.code for end in ended] == [0, 0, 0, 0]
    assert sum(end.last["applied"] for end in ended) == 1
    eventually(lambda: server.psql("SELECT count(*) FROM _migrations", database) == "1")
