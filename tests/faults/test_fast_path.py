"""A run with nothing to do sends a login, one message and a terminate message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run


@pytest.mark.parametrize("files", [1, 30])
def test_a_run_with_nothing_to_do_needs_a_login_and_one_message(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, files: int
) -> None:
    for number in range(files):
        migrations_dir.write(f"{number:03}.sql", "SELECT 1")
    assert run().report["applied"] == files
    with FaultProxy(database.server.port) as proxy:
        dsn = f"{database.dsn_at(proxy.port)}?gssencmode=disable&sslmode=disable"
        ended = run(DATABASE_URL=dsn)
        messages = proxy.end()
    assert (ended.exit_code, ended.report["skipped"], proxy.problems) == (0, files, [])
    assert [message.kind for message in messages if message.sender == "client"] == ["startup", "p", "p", "Q", "X"]
    assert [message.kind for message in messages if message.kind in "QZ"] == ["Z", "Q", "Z"]
