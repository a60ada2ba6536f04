"""Imports point one way, and a run that has nothing to do pays for nothing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import predeploy

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for path in [ROOT / "entrypoint.py", *ROOT.glob("predeploy/**/*.py")]
}
DIRECTIONS = [  # a package or module imports from its own line and from those below it, never upwards
    "entrypoint",
    "cli status",
    "plan",
    "apply",
    "monitor",
    "lock",
    "connection",
    "report",
    "log",
    "migrations",
    "redaction",
    "sql",
    "settings",
    "errors",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


FROM_TEXT_ALONE = (  # no driver: what these decide, they decide before there is a connection
    "predeploy.migrations.",
    "predeploy.sql.",
    "predeploy.redaction.",
    "predeploy.apply.fast_path",
    *(f"predeploy.plan.{kind}_locks" for kind in ("statement", "alter_table", "utility", "query")),
)


def imports(module: str, tree: ast.AST | None = None) -> set[str]:
    """Return the modules that a module imports, those for its type annotations included."""
    found = set()
    for node in ast.walk(tree or MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {str(node.module)}
    return found


def box_of(module: str) -> str:
    """Return the name in DIRECTIONS: the package below `predeploy`, or the module that stands there by itself."""
    return module.split(".")[1] if module.startswith("predeploy.") else module


def depth_of(module: str) -> int:
    return next(depth for depth, boxes in enumerate(DIRECTIONS) if box_of(module) in boxes.split())


OWN = sorted(MODULES.keys() - {"predeploy", "predeploy.__main__"})  # those two only point at the others


FOR_NOW = {"predeploy.migrations.reading": {"predeploy.apply.failure"}}  # until the two are untied


def test_every_module_is_in_a_box() -> None:
    assert {box_of(module) for module in OWN} == {*" ".join(DIRECTIONS).split()}


@pytest.mark.parametrize("module", OWN)
def test_a_module_imports_only_from_its_own_box_and_those_below(module: str) -> None:
    ours = {name for name in imports(module) if name.startswith("predeploy.") or name == "entrypoint"}
    upward = {name for name in ours if depth_of(name) <= depth_of(module) and box_of(name) != box_of(module)}
    assert upward <= FOR_NOW.get(module, set())


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({module: imports(module) & MODULES.keys() - {"predeploy"} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", [n for n in OWN if n.startswith(FROM_TEXT_ALONE) and n not in FOR_NOW])
def test_what_is_decided_from_text_alone_imports_no_driver(module: str) -> None:
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        todo = set().union(*(imports(name, at_import(name)) & MODULES.keys() for name in todo)) - reached
    assert {name for name in reached if any(i.startswith("psycopg") for i in imports(name, at_import(name)))} == set()


def at_import(module: str) -> ast.Module:
    """Return what of a module is run when it is imported."""
    return ast.Module([node for node in MODULES[module].body if not isinstance(node, ast.FunctionDef | ast.If)], [])


@pytest.mark.parametrize("module", [name for name in OWN if name not in {"entrypoint", "predeploy.signals"}])
def test_only_the_entry_point_sees_the_environment_the_command_line_and_signals(module: str) -> None:
    source = ast.unparse(MODULES[module])
    assert re.findall(r"\b(?:os\.(?:environ|getenv|putenv|_exit)|sys\.(?:argv|exit))", source) == []
    assert "signal" not in imports(module)


def test_only_commands_imports_the_plan() -> None:
    outside = [name for name in OWN if box_of(name) != "plan"]
    assert {name for name in outside if any(i.startswith("predeploy.plan") for i in imports(name))} <= {"entrypoint"}


def test_the_version_is_one() -> None:
    assert predeploy.__version__ == PROJECT["version"]


def test_the_library_is_what_it_names() -> None:
    assert sorted(predeploy.__all__) == predeploy.__all__
    assert all(hasattr(predeploy, name) for name in predeploy.__all__)


def test_a_user_installs_three_libraries() -> None:
    names = {re.split(r"[<>=!~ ]", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert names == {"psycopg[binary,pool]", "tenacity", "python-json-logger"}
    assert (
        re.findall(r"^rich", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE) == []
    )  # what the image installs


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
    assert {"psycopg", "predeploy.apply.migrator", "predeploy.apply.executor"} <= set(ended["modules"])
    assert {"tenacity", "argparse", "psycopg_pool", "predeploy.cli"}.isdisjoint(ended["modules"])
    # JSON is logged
    assert {"rich", "predeploy.log.console", "predeploy.migrations.source_line"}.isdisjoint(ended["modules"])
