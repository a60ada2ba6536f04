"""The commands and statements on the operations page work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_server_accepts_the_statements(
    run: Callable[..., Run], migrations_dir: MigrationsDir, database: Database
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    assert run().exit_code == 0
    with database.admin_connect(autocommit=False) as conn:
        conn.execute("CREATE ROLE app")
        for block in blocks("sql"):
            conn.execute(block.replace("4711", "pg_backend_pid() + 1000000").encode())
        conn.rollback()
    assert len(blocks("sql")) >= 5


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq")
def test_the_jq_filter_finds_failures(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT\n  1 FROM nowhere")
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if "| jq -r '" in line]
    jq = command.partition("| jq -r '")[2].removesuffix("'")
    done = subprocess.run(["jq", "-r", jq], input=run().stdout, capture_output=True, text=True, check=True)
    message, advice = done.stdout.splitlines()
    assert message.startswith("Failed: 001.sql:2:10: ")
    assert advice.startswith("Fix the name")


@pytest.mark.parametrize("block", blocks("sh"))
def test_a_shell_can_parse_the_commands(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
