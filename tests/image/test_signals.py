from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.image.engine import docker, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image.engine import Container
    from tests.support.migrations_dir import MigrationsDir

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def backends(server: Container, database: str) -> int:
    return int(server.psql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"))


def handles(runner: Container, signum: signal.Signals) -> bool:
    """Return whether the runner has executed its first instruction: the signal is blocked or has a handler."""
    status = Path(f"/proc/{runner.pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", status, re.MULTILINE)
    return any(int(mask, 16) & 1 << signum - 1 for mask in masks)


@pytest.mark.parametrize(
    ("name", "delay"), [("TERM", 0), ("TERM", 0.2), ("TERM", 2), ("QUIT", 0), ("QUIT", 2), ("HUP", 2), ("INT", 2)]
)
def test_a_signal_ends_the_run_and_leaves_nothing_on_the_server(
    migrate: Callable[..., Container],
    server: Container,
    database: str,
    dsn: str,
    migrations: MigrationsDir,
    name: str,
    delay: float,
) -> None:
    signum = signal.Signals[f"SIG{name}"]
    migrations.write("002_long.sql", "CREATE TABLE half (); SELECT pg_sleep(60);")
    runner = migrate(DATABASE_URL=dsn)
    eventually(lambda: handles(runner, signum))  # the interpreter needs about 10 ms to start
    time.sleep(delay)
    sent = time.monotonic()
    docker("kill", f"--signal={name}", runner.name)
    ended = runner.wait()
    assert ended.code == 128 + signum
    assert time.monotonic() - sent < 5
    eventually(lambda: backends(server, database) == 0, within=3)
    assert server.psql(LOCKS, database) == "0"
    assert server.psql("SELECT to_regclass('half')", database) == ""
    assert (ended.last["event"], ended.last["exit_code"]) == ("run.finished", 128 + signum)


def test_the_backend_of_a_killed_runner_ends_quickly(
    migrate: Callable[..., Container], server: Container, database: str, dsn: str, migrations: MigrationsDir
) -> None:
    migrations.write("002_long.sql", "SELECT pg_sleep(60);")
    runner = migrate(DATABASE_URL=dsn)
    runner.until("migration.applied")
    docker("kill", runner.name)
    eventually(lambda: backends(server, database) == 0, within=10)
