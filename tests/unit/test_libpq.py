"""libpq through ctypes parses connection strings like psycopg, the fallback if the library cannot be loaded."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg_binary
import pytest

from predeploy.connection import libpq
from predeploy.connection.dsn import parse_dsn, write_conninfo
from tests.support.dsns import CASES
from tests.unit.test_dsn import KEY_VALUES, PW, SERVICES, URIS

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.connection.libpq import ConninfoReader, Option

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


def read_by_both(monkeypatch: pytest.MonkeyPatch, read: Callable[[ConninfoReader], object]) -> tuple[object, object]:
    """Return the results of libpq through ctypes and of psycopg."""
    by_ctypes = libpq.conninfo()
    assert isinstance(by_ctypes, libpq.Libpq)
    with monkeypatch.context() as patch:
        patch.setattr(libpq, "load", lambda: None)
        by_psycopg = libpq.conninfo()
    assert not isinstance(by_psycopg, libpq.Libpq)
    return read(by_ctypes), read(by_psycopg)


@pytest.fixture(params=ENVIRONMENTS, ids=lambda variables: " ".join(variables) or "nothing")
def environment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set variables and create files that libpq reads in addition to the connection string."""
    (tmp_path / "services").write_text(SERVICES)
    (tmp_path / "passfile").write_text("*:*:*:me:Zq7x-me\ndb:5432:app:*:Zq7x-app\n*:*:*:*:Zq7x-any\n")
    (tmp_path / "passfile").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


def test_both_parse_every_connection_string_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    dsns = DSNS + [case.dsn for case in CASES.values() if "\0" not in case.dsn and "\udcff" not in case.dsn]
    by_ctypes, by_psycopg = read_by_both(
        monkeypatch, lambda reader: [(dsn, reader.parse(dsn.encode())) for dsn in dsns]
    )
    assert by_ctypes == by_psycopg
    assert len(dsns) > 500


@pytest.mark.usefixtures("environment")
def test_both_read_every_environment_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    by_ctypes, by_psycopg = read_by_both(monkeypatch, lambda reader: reader.defaults())
    assert by_ctypes == by_psycopg


@pytest.mark.usefixtures("environment")
def test_both_find_the_same_login_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    readable = [(dsn, options) for dsn in DSNS if (options := libpq.conninfo().parse(dsn.encode())) is not None]

    def resolve(reader: ConninfoReader) -> list[tuple[str, tuple[list[Option], bytes] | None]]:
        never_connect = {"sslmode": "never-connect"}
        return [
            (dsn, reader.resolve(write_conninfo({**values(options), **never_connect}))) for dsn, options in readable
        ]

    by_ctypes, by_psycopg = read_by_both(monkeypatch, resolve)
    assert by_ctypes == by_psycopg


def values(options: list[Option]) -> dict[str, str]:
    return {keyword: value.decode(errors="replace") for keyword, value, _ in options if value is not None}


@pytest.mark.parametrize("value", ["", " ", "'", "\\", "\\'", "a b", "\n", "=", "ü€🐘", "a\\", "'a'", "x'y\\z "])
def test_every_value_survives_quoting_and_parsing(value: str) -> None:
    assert parse_dsn(write_conninfo({"application_name": value, "host": "db"}).decode()).named == {
        "application_name": value,
        "host": "db",
    }


# If the library cannot be used


def package(directory: Path, libraries: dict[str, bytes | Path] | None) -> None:
    """Create a psycopg_binary package with these libraries next to it."""
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
def test_a_library_that_cannot_be_used_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries: dict[str, bytes | Path] | None
) -> None:
    package(tmp_path, libraries)
    monkeypatch.syspath_prepend(tmp_path)
    assert libpq.load.__wrapped__() is None


def test_no_library_is_loaded_without_psycopgs_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [os.fspath(Path(os.__file__).parent)])
    assert libpq.load.__wrapped__() is None


def test_no_library_is_loaded_if_psycopg_was_built_with_another_libpq(
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
    assert done.stdout.splitlines() == [str(bundled("libpq").resolve())]


# One run


def calls_in_a_run(directory: Path, *functions: str) -> list[int]:
    """Return how often a run of `migrate` without a server calls each function, in any thread."""
    environ = {
        "DATABASE_URL": f"host={directory} dbname=nowhere password={PW}",  # there is no socket
        "MIGRATIONS_DIR": str(directory),
        "MIGRATE_WAIT_TIMEOUT": "0",
        "MIGRATE_LOG_FORMAT": "json",
    }
    source = f"""
import collections, json, sys, threading
import entrypoint
counts = collections.Counter()
def count(frame, event, argument):
    if event == "call":
        counts[frame.f_code.co_qualname] += 1
threading.setprofile(count)
sys.setprofile(count)
exit_code = entrypoint.main([], {environ!r})
sys.setprofile(None)
print(json.dumps([exit_code, [counts[name] for name in {functions!r}]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=60
    )
    exit_code, counts = json.loads(done.stdout.splitlines()[-1])
    assert (exit_code, done.stderr) == (3, "")
    return list(counts)


def test_a_run_parses_its_connection_string_once(tmp_path: Path) -> None:
    (tmp_path / "001.sql").write_text("SELECT 1;\n")
    functions = ("parse_dsn", "Libpq.parse", "Libpq.resolve", "_ByPsycopg.parse", "_ByPsycopg.resolve")
    assert calls_in_a_run(tmp_path, *functions) == [1, 1, 1, 0, 0]
