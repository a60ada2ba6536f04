"""libpq alone and psycopg read alike, and where the one is not to be had the other does."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg_binary
import pytest

from predeploy.connection import conninfo, libpq
from tests.support.dsns import CASES
from tests.unit.test_dsn import KEY_VALUES, PW, SERVICES, URIS

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.connection.libpq import Option

ROOT = Path(__file__).parents[2]
DSNS = sorted({dsn for dsn, _ in (*URIS, *KEY_VALUES) if "\udcff" not in dsn and "\0" not in dsn})
ENVIRONMENTS = [
    {},
    {"PGHOST": "env", "PGPORT": "6543", "PGPASSWORD": PW, "PGSSLMODE": "require"},
    {"PGHOST": "", "PGPORT": "", "PGUSER": "ü"},
    {"PGSERVICE": "app"},
    {"PGSERVICE": "typo"},
    {"PGSERVICE": "missing"},
    {"PGPASSFILE": "passfile"},
]


def both_ways(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> tuple[object, object]:
    """Return what libpq alone says and what psycopg says."""
    assert libpq.load() is not None
    alone = call()
    with monkeypatch.context() as patch:
        patch.setattr(libpq, "load", lambda: None)
        return alone, call()


@pytest.fixture(params=ENVIRONMENTS, ids=lambda variables: " ".join(variables) or "nothing")
def environment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libpq finds beside the connection string."""
    (tmp_path / "services").write_text(SERVICES)
    (tmp_path / "passfile").write_text("*:*:*:me:Zq7x-me\ndb:5432:app:*:Zq7x-app\n*:*:*:*:Zq7x-any\n")
    (tmp_path / "passfile").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


def test_every_connection_string_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    dsns = DSNS + [case.dsn for case in CASES.values() if "\0" not in case.dsn and "\udcff" not in case.dsn]
    alone, by_psycopg = both_ways(monkeypatch, lambda: [(dsn, conninfo.parse(dsn)) for dsn in dsns])
    assert alone == by_psycopg
    assert len(dsns) > 500


@pytest.mark.usefixtures("environment")
def test_every_environment_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, by_psycopg = both_ways(monkeypatch, conninfo.defaults)
    assert alone == by_psycopg


@pytest.mark.usefixtures("environment")
def test_what_a_login_would_use_is_found_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    readable = [(dsn, options) for dsn in DSNS if (options := conninfo.parse(dsn)) is not None]

    def resolved() -> list[tuple[str, tuple[list[Option], bytes] | None]]:
        return [(dsn, conninfo.resolve({**named(options), "sslmode": "never-connect"})) for dsn, options in readable]

    alone, by_psycopg = both_ways(monkeypatch, resolved)
    assert alone == by_psycopg


def named(options: list[Option]) -> dict[str, str]:
    return {keyword: value.decode(errors="replace") for keyword, value, _ in options if value is not None}


@pytest.mark.parametrize("value", ["", " ", "'", "\\", "\\'", "a b", "\n", "=", "ü€🐘", "a\\", "'a'", "x'y\\z "])
def test_every_value_comes_back_from_what_is_written(value: str) -> None:
    options = conninfo.parse(conninfo.written({"password": value, "host": "db"}).decode())
    assert options is not None
    assert named(options) == {"password": value, "host": "db"}


# Where the library is not what it should be


def package(directory: Path, libraries: dict[str, bytes | Path] | None) -> None:
    """Put a psycopg_binary there, with such libraries beside it."""
    (directory / "psycopg_binary").mkdir()
    (directory / "psycopg_binary" / "__init__.py").touch()
    if libraries is None:
        return
    (directory / "psycopg_binary.libs").mkdir()
    for name, content in libraries.items():
        target = directory / "psycopg_binary.libs" / name
        if isinstance(content, Path):
            shutil.copy(content, target)
        else:
            target.write_bytes(content)


def bundled(start: str) -> Path:
    folder = Path(f"{Path(psycopg_binary.__file__).parent}.libs")
    return next(path for path in folder.iterdir() if path.name.startswith(start))


@pytest.mark.parametrize(
    "libraries",
    [
        None,
        {},
        {"libpq-1.so.5": b"no library"},
        {"libpq-1.so.5": b""},
        {"libpq-1.so.5": bundled("libcom_err")},
        {"libpq-1.so.5": bundled("libcom_err"), "libpq-2.so.5": bundled("libcom_err")},
        {"libcom_err.so": bundled("libcom_err")},
    ],
    ids=["no folder", "empty", "garbage", "nothing in it", "lacks the functions", "two", "another"],
)
def test_a_library_that_cannot_be_used_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries: dict[str, bytes | Path] | None
) -> None:
    package(tmp_path, libraries)
    monkeypatch.syspath_prepend(tmp_path)
    assert libpq.load.__wrapped__() is None


def test_where_psycopg_is_not_installed_with_its_library_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [os.fspath(Path(os.__file__).parent)])
    assert libpq.load.__wrapped__() is None


def test_where_psycopg_is_built_for_another_library_ours_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "psycopg_c").mkdir()
    (tmp_path / "psycopg_c" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert libpq.load.__wrapped__() is None


def test_the_library_is_the_one_that_psycopg_loads() -> None:
    source = """
from pathlib import Path
from predeploy.connection import libpq
assert libpq.load()
import psycopg
mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
print(*(path for path in sorted(mapped) if "/libpq" in path), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [str(bundled("libpq"))]
