from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.migrations_dir import MigrationsDir

    Compose = Callable[..., subprocess.CompletedProcess[str]]

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def compose(image: str, tmp_path: Path, migrations: MigrationsDir) -> Iterator[Compose]:
    """Run `docker compose` with the project's file, with secrets created as in the README."""
    (tmp_path / "db_password").write_text("s3cret\n")
    (tmp_path / "database_url").write_text("postgres://postgres:s3cret@db/app\n")
    environment = {
        **os.environ,
        "APP_IMAGE": os.environ["POSTGRES_IMAGE"],
        "MIGRATE_IMAGE": image,
        "MIGRATIONS": str(migrations),
        "SECRETS": str(tmp_path),
    }
    project = f"predeploy-{secrets.token_hex(4)}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--project-name", project, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment, timeout=100
        )

    yield run
    run("down", "--volumes", "--timeout=1")


def state(compose: Compose, service: str) -> str:
    listed = compose("ps", "--all", "--format=json", service).stdout
    return str(json.loads(listed.splitlines()[0])["State"])


def test_the_application_starts_after_the_migrations(compose: Compose) -> None:
    up = compose("up", "--detach", "--wait")
    assert up.returncode == 0, up.stderr
    assert state(compose, "app") == "running"
    assert state(compose, "migrate") == "exited"
    assert "001_notes.sql" in compose("logs", "app").stdout


def test_a_failing_file_keeps_the_application_from_starting(compose: Compose, migrations: MigrationsDir) -> None:
    migrations.write("002_broken.sql", "SELECT nothing FROM nowhere;")
    up = compose("up", "--detach", "--wait")
    assert up.returncode != 0
    assert "migrate" in up.stderr
    assert state(compose, "app") == "created"
    assert "002_broken.sql" in compose("logs", "migrate").stdout
