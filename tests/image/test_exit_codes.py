from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image.engine import Container
    from tests.support.migrations_dir import MigrationsDir

    Migrate = Callable[..., Container]


def test_0_applies_and_then_finds_nothing_to_do(migrate: Migrate, dsn: str) -> None:
    first = migrate(DATABASE_URL=dsn).wait()
    assert (first.code, first.last["event"], first.last["applied"]) == (0, "run.finished", 1)
    again = migrate(DATABASE_URL=dsn).wait()
    assert (again.code, again.last["applied"], again.last["skipped"]) == (0, 0, 1)


def test_0_with_the_slim_image(migrate: Migrate, slim_image: str, dsn: str) -> None:
    ended = migrate(use=slim_image, DATABASE_URL=dsn).wait()
    assert (ended.code, ended.last["applied"]) == (0, 1)


def test_1_when_a_file_fails(migrate: Migrate, dsn: str, migrations: MigrationsDir) -> None:
    migrations.write("002_broken.sql", "SELECT 1;\nSELECT nothing FROM nowhere;")
    migrations.write("003_fine.sql", "SELECT 1;")
    ended = migrate(DATABASE_URL=dsn).wait()
    failed = ended.named("migration.failed")
    assert (ended.code, ended.last["applied"], ended.last["failed"]) == (1, 2, 1)
    assert [(line["migration"], line["sqlstate"], line["line"]) for line in failed] == [("002_broken.sql", "42P01", 2)]


def test_2_without_a_connection_string(migrate: Migrate) -> None:
    ended = migrate().wait()
    assert (ended.code, ended.last["exit_code"]) == (2, 2)


def test_2_for_an_unknown_command(migrate: Migrate, dsn: str) -> None:
    assert migrate("mirgate", DATABASE_URL=dsn).wait().code == 2


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("host", ["db:1", "nobody.invalid"])
def test_3_when_no_server_answers(migrate: Migrate, host: str) -> None:
    ended = migrate(DATABASE_URL=f"postgres://u:s3cret@{host}/app", MIGRATE_WAIT_TIMEOUT="2s").wait()
    assert ended.code == 3
    assert ended.named("postgres.waiting")
    assert ended.last["duration_ms"] < 8000


def test_4_when_another_runner_holds_the_lock(migrate: Migrate, dsn: str, migrations: MigrationsDir) -> None:
    migrations.write("000_long.sql", "SELECT pg_sleep(30);")
    holder = migrate(DATABASE_URL=dsn)
    holder.until("lock.acquired")
    ended = migrate(DATABASE_URL=dsn, MIGRATE_LOCK_WAIT_TIMEOUT="1s").wait()
    assert ended.code == 4
    assert ended.named("lock.waiting")


@pytest.mark.parametrize("change", [("s3cret", "wr0ng"), ("/db_", "/no_")], ids=["password", "database"])
def test_5_when_the_server_refuses_permanently(migrate: Migrate, dsn: str, change: tuple[str, str]) -> None:
    ended = migrate(DATABASE_URL=dsn.replace(*change)).wait()
    assert ended.code == 5
    assert ended.last["duration_ms"] < 5000


def test_6_when_the_connection_is_lost_permanently(
    migrate: Migrate, private_server: Container, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(60);")
    runner = migrate(DATABASE_URL="postgres://postgres:s3cret@private/postgres", MIGRATE_WAIT_TIMEOUT="2s")
    runner.until("migration.applied")
    with private_server:
        pass  # the server is removed
    ended = runner.wait()
    assert (ended.code, ended.last["applied"]) == (6, 1)


def test_10_when_check_finds_a_pending_migration(migrate: Migrate, dsn: str) -> None:
    assert migrate("check", DATABASE_URL=dsn).wait().code == 10
    assert migrate(DATABASE_URL=dsn).wait().code == 0
    assert migrate("check", DATABASE_URL=dsn).wait().code == 0
