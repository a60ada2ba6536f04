"""The program as pip installs it from the wheel; unlike in a checkout, there is no entrypoint.py."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from tests.support.program import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.database import Database


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that contains the installed package, and `bin` with its console script."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(path)], check=True
    )
    return folder / "site"


def start(installed: Path, command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{installed}:{sysconfig.get_path('purelib')}"
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": path, **variables}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_wheel_installs_one_package_and_no_other_module(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"predeploy", "bin"}


@pytest.mark.parametrize(
    "command", [["bin/pg-predeploy"], [sys.executable, "-m", "predeploy"]], ids=["script", "module"]
)
def test_migrations_are_read_from_the_working_directory(
    installed: Path, database: Database, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/001.sql").write_text("CREATE TABLE made_by_the_wheel ()")
    command = [str(installed / command[0]) if command[0].startswith("bin") else command[0], *command[1:]]
    done = start(installed, command, tmp_path, DATABASE_URL=database.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert database.query("SELECT to_regclass('made_by_the_wheel') IS NOT NULL") == [(True,)]


def test_the_packages_own_migrations_folder_is_never_the_default_directory(
    installed: Path, database: Database, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "predeploy"]
    done = start(installed, command, tmp_path, DATABASE_URL=database.dsn, MIGRATE_REQUIRE_FILES="true")
    assert done.returncode == 2, done.stdout
    assert '"migrations_dir": "migrations"' in done.stdout
