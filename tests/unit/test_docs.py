"""The docs explain every event, variable, command and exit code of the program, and their links are valid."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from predeploy.apply.advice import ADVICE, SPECIAL
from predeploy.apply.failure import NAMES
from predeploy.cli import COMMANDS
from predeploy.connection import login_error_table
from predeploy.errors import EXIT_CODES
from predeploy.settings import load_settings
from scripts.docs import ADVICE_PAGE, error_advice
from tests.unit.test_architecture import MODULES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

README = ROOT / "README.md"
DOCS = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS.values()]
LOGGING, OPERATIONS, CONFIGURATION, COMMANDS_PAGE = (
    DOCS[name].read_text() for name in ("logging.md", "operations.md", "configuration.md", "commands.md")
)

_EVENT = re.compile(r"(?:connection|lock|migration|pooler|postgres|report|run|schema|session|settings|table)\.[a-z_]+")
EVENTS = {
    node.value
    for module in MODULES.values()
    for node in ast.walk(module)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _EVENT.fullmatch(node.value)
    if f"predeploy.{node.value}" not in MODULES and not node.value.endswith(".sql")
}
VARIABLES = {
    node.value
    for node in ast.walk(MODULES["predeploy.settings"])
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
    if re.fullmatch(r"MIGRAT[A-Z]+_[A-Z_]*[A-Z]|DATABASE_URL|DATABASE_URL_FILE", node.value)
} | {"MIGRATE_SET_<NAME>"}
OF_THE_TERMINAL = {"NO_COLOR"}  # rich reads it


def section(page: str, heading: str) -> str:
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[2]


def first_column(text: str) -> list[str]:
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return [cell.strip("`") for cell in cells if not set(cell) <= set("- ")][1:]


def rows(text: str) -> list[list[str]]:
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


def without_code_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    found = re.findall(r"\]\(([^)]+)\)", without_code_blocks(path.read_text()))
    return [target for target in found if not target.startswith("https:")]


def test_events_and_variables_are_found_in_the_program() -> None:
    assert {"run.started", "migration.failed", "migration.late", "settings.unknown", "connection.silent"} <= EVENTS
    assert len(EVENTS) >= 28
    assert {"DATABASE_URL", "MIGRATIONS_DIR", "MIGRATE_ON_ERROR", "MIGRATE_TERMINATION_LOG"} <= VARIABLES
    assert len(VARIABLES) >= 14


def test_exactly_the_events_of_the_program_are_explained_once() -> None:
    assert Counter(first_column(section(LOGGING, "Events"))) == Counter(EVENTS)


def test_every_event_in_the_docs_exists() -> None:
    named = {name for path in PAGES for name in re.findall(r"`([a-z.]+_?[a-z]+)`", path.read_text())}
    assert {name for name in named if _EVENT.fullmatch(name) and not name.endswith((".py", ".sql"))} <= EVENTS


def test_every_warning_and_error_has_one_instruction() -> None:
    headings = re.findall(r"^### `([a-z._]+)`$", OPERATIONS, re.MULTILINE)
    explained = Counter([*headings, *first_column(section(OPERATIONS, "Other events"))])
    levels = {row[0].strip("`"): row[1] for row in rows(section(LOGGING, "Events"))}
    wanted = {event for event, level in levels.items() if re.search("warning|error", level)}
    assert set(explained.values()) == {1}
    assert wanted - {"run.finished"} <= set(explained)


def test_event_levels_match_the_program() -> None:
    """Check only calls that contain both: `log.warning(..., extra={"event": ...})`."""
    levels = {row[0].strip("`"): row[1] for row in rows(section(LOGGING, "Events"))}
    checked = 0
    for call in (node for module in MODULES.values() for node in ast.walk(module) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in {"debug", "info", "warning", "error"}:
            continue
        constants = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
        for event in EVENTS.intersection(value for value in constants if isinstance(value, str)):
            assert call.func.attr in levels[event], event
            checked += 1
    assert checked >= 12


def test_every_exit_code_is_in_the_readme() -> None:
    codes = first_column(section(README.read_text(), "Exit codes"))
    assert codes == [*map(str, sorted(EXIT_CODES)), "128+n"]


def test_every_exit_code_has_a_section() -> None:
    headings = [int(code) for code in re.findall(r"^### (\d+)(?::| and more:) \S", OPERATIONS, re.MULTILINE)]
    assert headings == [*sorted(EXIT_CODES), 128]


def test_every_variable_is_explained_once() -> None:
    assert Counter(first_column(section(CONFIGURATION, "Variables"))) == Counter(VARIABLES | OF_THE_TERMINAL)


@pytest.mark.parametrize("page", [CONFIGURATION, README.read_text()], ids=["configuration", "readme"])
def test_defaults_match_the_program(page: str) -> None:
    settings = load_settings({"DATABASE_URL": "dbname=a"}, default_dir="")._asdict()
    found = {
        row[0].strip("`"): row[1] for row in rows(section(page, "Variables" if "## Variables" in page else "Settings"))
    }
    checked = 0
    for variable, default in found.items():
        field = variable.removeprefix("MIGRATE_").lower()
        if variable.startswith("MIGRATE_") and field in settings and settings[field] != frozenset():
            value = settings[field]
            text = (
                str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
            )
            assert default.removesuffix(" (off)") == f"`{text}`", variable
            checked += 1
    assert checked >= 4


def test_every_command_is_explained_once() -> None:
    assert first_column(COMMANDS_PAGE.partition("\n## ")[0]) == list(COMMANDS)


def test_every_reason_to_wait_is_explained() -> None:
    values = vars(login_error_table).values()
    failures = [value for value in values if isinstance(value, login_error_table.LoginFailure)]
    assert len(failures) > 30
    explained = section(OPERATIONS, "`postgres.waiting`")
    assert {f.reason for f in failures if not f.permanent and f"`{f.reason}`" not in explained} == set()


def test_the_page_of_advice_is_up_to_date() -> None:
    assert ADVICE_PAGE.read_text() == error_advice(), "run scripts/docs"


def test_all_advice_is_on_its_page() -> None:
    page = ADVICE_PAGE.read_text()
    table = dict(re.findall(r"^\| ([0-9A-Z]{5}) \| `\w+` \| (.+) \|$", page, re.MULTILINE))
    assert {code for code, advice in ADVICE.items() if advice not in table[code]} == set()
    assert {key for key, advice in SPECIAL.items() if advice not in table[str(key[0])]} == set()


def test_every_field_of_a_failure_is_explained() -> None:
    fields = {"error", "hint", "advice", "sqlstate", "condition", "line", "column", "statement", "statements"}
    fields |= {"command", "after_failure", *NAMES}
    explained = section(LOGGING, "Failures")
    assert {field for field in fields if f"`{field}`" not in explained} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_log_lines_in_the_docs_have_the_programs_format(path: Path) -> None:
    for block in re.findall(r"^```json\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
        for line in map(json.loads, block.splitlines()):
            assert list(line)[:4] == ["timestamp", "level", "message", "event"]
            assert line["event"] in EVENTS
            if "advice" in line and not line["after_failure"]:
                assert line["advice"] == ADVICE[line["sqlstate"]]


# scripts/bench writes performance.md, so its links are tested in the source of that script.
LINKING = [*(page for page in PAGES if page.name != "performance.md"), ROOT / "benchmarks/report.py"]


@pytest.mark.parametrize("path", LINKING, ids=lambda path: path.name)
def test_links_are_valid(path: Path) -> None:
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = (ROOT / "docs" if path.suffix == ".py" else path.parent) / target if target else path
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_the_readme_and_the_site_link_to_every_page() -> None:
    linked = {link.partition("#")[0].removeprefix("docs/") for link in links(README)}
    assert set(DOCS) <= linked
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(page for shelf in nav for pages in shelf.values() for page in pages) == sorted([*DOCS, "index.md"])


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1400


def test_the_readme_says_early_how_to_try_it() -> None:
    top = README.read_text().splitlines()[:60]
    assert [line.split()[0] for line in top if line.startswith("scripts/")] == ["scripts/demo", "scripts/test"]
