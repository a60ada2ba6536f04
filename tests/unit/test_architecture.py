"""Imports point one way, and a run that has nothing to do pays for nothing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import predeploy

ROOT = Path(__file__).parents[2]
ROOMS = {path.stem: ast.parse(path.read_text()) for path in [ROOT / "entrypoint.py", *ROOT.glob("predeploy/*.py")]}
LAYERS = [  # each imports only from those below it
    {"entrypoint"},
    {"__init__", "rehearsal", "report", "status", "usage"},
    {"plan"},
    {"migrator", "health", "pool", "glance"},
    {"pending"},
    {"attempts", "batch", "record"},
    {"execution", "drift", "watcher"},
    {"table", "progress"},
    {"catalog", "lock", "pooler", "operations"},
    {"holder", "lookout", "course"},
    {"session"},
    {"postgres"},
    {"login"},
    {"reading"},
    {"dsn", "failure", "guard", "locking", "refusals"},
    {"advice", "alterations", "disclosure", "maintenance", "pieces"},
    {"objects", "queries"},
    {"conninfo", "migrations", "turn"},
    {"causes", "command", "logs", "phrase", "settings", "sqlstate", "statements", "vocabulary"},
    {"deadline", "directives", "libpq"},
    {"console", "jsonlines"},
    {"rows"},
    {"excerpt", "scrubber", "terminal"},
    {"blocks", "errors", "lockkey", "lockmodes", "sha256"},
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imports(room: str) -> set[str]:
    """Return the dotted names that a room imports, those for its type annotations included."""
    found = set()
    for node in ast.walk(ROOMS[room]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_its_layer() -> None:
    assert sorted(room for layer in LAYERS for room in layer) == sorted(ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_from_below(room: str) -> None:
    ours = {name.split(".")[1] for name in imports(room) if name.startswith("predeploy.")}
    below = set().union(*LAYERS[next(depth for depth, layer in enumerate(LAYERS, 1) if room in layer) :])
    assert ours - {"__version__"} <= below
    assert not any(name.split(".")[0] == "entrypoint" for name in imports(room))


@pytest.mark.parametrize(
    "room",
    [
        *("errors", "migrations", "directives", "statements", "guard", "settings", "logs", "vocabulary", "drift"),
        *("libpq", "glance", "turn", "login", "deadline", "dsn", "report", "blocks", "pieces", "reading"),
        *("alterations", "locking", "lockmodes", "maintenance", "objects", "phrase", "queries"),
    ],
)
def test_what_is_decided_from_text_alone_needs_no_database(room: str) -> None:
    assert not any(name.startswith("psycopg") for name in imports(room))


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - {"entrypoint"}))
def test_only_the_entry_point_sees_the_environment_the_command_line_and_signals(room: str) -> None:
    source = ast.unparse(ROOMS[room])
    assert re.findall(r"\b(?:os\.(?:environ|getenv|putenv|_exit)|sys\.(?:argv|exit))", source) == []
    assert imports(room).isdisjoint({"signal", "os.environ", "os.getenv", "sys.argv"})


def test_the_version_is_one() -> None:
    assert predeploy.__version__ == PROJECT["version"]


def test_the_library_is_what_it_names() -> None:
    assert sorted(predeploy.__all__) == predeploy.__all__
    assert all(hasattr(predeploy, name) for name in predeploy.__all__)


def test_a_user_installs_three_libraries() -> None:
    names = {re.split(r"[<>=!~ ]", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert names == {"psycopg[binary,pool]", "tenacity", "python-json-logger"}


def test_a_run_that_needs_no_second_attempt_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "001.sql").write_text("SELECT 1;\n")
    environ = {
        "DATABASE_URL": f"host={tmp_path} dbname=nowhere",  # no socket is there, and nothing is waited for
        "MIGRATIONS_DIR": str(tmp_path),
        "MIGRATE_WAIT_TIMEOUT": "0",
        "MIGRATE_LOG_FORMAT": "json",
        "MIGRATE_TERMINATION_LOG": str(tmp_path / "message"),
    }
    source = (
        "import json, sys, entrypoint\n"
        f"exit_code = entrypoint.main([], {environ!r})\n"
        "print(json.dumps({'exit_code': exit_code, 'modules': sorted(sys.modules)}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=60
    )
    ended = json.loads(done.stdout.splitlines()[-1])
    assert (ended["exit_code"], done.stderr) == (3, "")
    assert {"psycopg", "predeploy.migrator", "predeploy.execution"} <= set(ended["modules"])
    assert {"tenacity", "argparse", "psycopg_pool", "predeploy.usage"}.isdisjoint(ended["modules"])
    assert {"predeploy.console", "predeploy.excerpt", "unicodedata"}.isdisjoint(ended["modules"])  # JSON is logged
