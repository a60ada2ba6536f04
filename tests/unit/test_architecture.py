"""Imports go in one direction, and a run imports only what it needs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import predeploy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for path in [ROOT / "entrypoint.py", *ROOT.glob("predeploy/**/*.py")]
}
DIRECTIONS = [  # each package or module imports only from its own line and the lines below
    "entrypoint",
    "commands cli",
    "plan",
    "apply",
    "adopt",
    "monitor",
    "lock",
    "connection",
    "report",
    "log",
    "migrations",
    "redaction",
    "settings",
    "sql",
    "signals",
    "errors",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


FROM_TEXT_ALONE = (  # no driver: these modules work without a connection
    "predeploy.migrations.",
    "predeploy.sql.",
    "predeploy.redaction.",
    "predeploy.apply.fast_path",
    *(f"predeploy.plan.{kind}_locks" for kind in ("statement", "alter_table", "utility", "query")),
)


def imports(module: str) -> set[str]:
    """Return the modules that a module imports, including those for type annotations."""
    return imported_by(ast.walk(MODULES[module]))


def imported_by(nodes: Iterable[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {str(node.module)}
    return found


def box_of(module: str) -> str:
    """Return the name in DIRECTIONS: the package below `predeploy`, or the top-level module."""
    return module.split(".")[1] if module.startswith("predeploy.") else module


def depth_of(module: str) -> int:
    return next(depth for depth, boxes in enumerate(DIRECTIONS) if box_of(module) in boxes.split())


OWN = sorted(MODULES.keys() - {"predeploy", "predeploy.__main__"})  # these two only import other modules


def test_every_module_is_in_the_list() -> None:
    assert {box_of(module) for module in OWN} == {*" ".join(DIRECTIONS).split()}


def test_a_module_imports_only_from_its_own_line_and_the_lines_below() -> None:
    own = [
        (module, name) for module in OWN for name in imports(module) if name.startswith(("predeploy.", "entrypoint"))
    ]
    assert len(own) > len(OWN)
    assert [(a, b) for a, b in own if depth_of(b) <= depth_of(a) and box_of(b) != box_of(a)] == []


def test_no_imports_are_circular() -> None:
    TopologicalSorter({module: imports(module) & MODULES.keys() - {"predeploy"} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", [name for name in OWN if name.startswith(FROM_TEXT_ALONE)])
def test_modules_that_work_without_a_connection_import_no_driver(module: str) -> None:
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        todo = set().union(*map(import_time_imports, todo)) & MODULES.keys() - reached
    assert {name for name in reached if any(i.startswith("psycopg") for i in import_time_imports(name))} == set()


def import_time_imports(module: str) -> set[str]:
    return imported_by(at_import(MODULES[module]))


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the code of a module that runs on import: no functions, and nothing for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def test_only_the_entry_point_reads_the_environment_and_the_command_line() -> None:
    seeing = re.compile(r"\b(?:os\.(?:environb?|getenvb?|putenv|unsetenv)|sys\.(?:argv|exit))\b")
    assert [name for name, tree in MODULES.items() if seeing.search(ast.unparse(tree))] == ["entrypoint"]


def test_only_the_entry_point_and_signals_end_the_process() -> None:
    ending = {name for name, tree in MODULES.items() if re.search(r"\bos\._exit\b", ast.unparse(tree))}
    assert ending == {"entrypoint", "predeploy.signals"}


def test_only_signals_handles_signals() -> None:
    assert {name for name in MODULES if "signal" in imports(name)} == {"predeploy.signals"}


def test_only_commands_imports_the_plan() -> None:
    outside = [name for name in OWN if box_of(name) != "plan"]
    assert {name for name in outside if any(i.startswith("predeploy.plan") for i in imports(name))} == {
        "predeploy.commands"
    }


def test_the_version_is_the_same_everywhere() -> None:
    assert predeploy.__version__ == PROJECT["version"]


def test_the_library_exports_the_names_in_all() -> None:
    assert sorted(predeploy.__all__) == predeploy.__all__
    assert all(hasattr(predeploy, name) for name in predeploy.__all__)


def test_a_user_installs_three_libraries() -> None:
    names = {re.split(r"[<>=!~ ]", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert names == {"psycopg[binary,pool]", "tenacity", "python-json-logger"}
    assert (
        re.findall(r"^rich", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE) == []
    )  # what the image installs


def test_a_run_without_a_retry_imports_only_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "001.sql").write_text("SELECT 1;\n")
    environ = {
        "DATABASE_URL": f"host={tmp_path} dbname=nowhere",  # there is no socket, and the run does not wait
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
    assert {"tenacity", "argparse", "psycopg_pool"}.isdisjoint(ended["modules"])
    assert {"predeploy.connection.dsn_hints", "predeploy.connection.option_values"}.isdisjoint(ended["modules"])
    assert [name for name in ended["modules"] if name.startswith(("predeploy.plan", "predeploy.adopt"))] == []
    # JSON is logged
    assert {"rich", "predeploy.log.console", "predeploy.migrations.source_line"}.isdisjoint(ended["modules"])
