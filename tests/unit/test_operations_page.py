"""The page for operators names everything that they can meet, and says of it what the program does."""

from __future__ import annotations

import ast
import re

from predeploy.apply.advice import ADVICE, SPECIAL, condition_of
from predeploy.apply.failure import NAMES
from predeploy.connection import login_error_table
from predeploy.errors import EXIT_CODES
from tests.unit.test_architecture import MODULES, ROOT

PAGE = (ROOT / "docs/operations.md").read_text()
_EVENT = re.compile(r"(?:connection|lock|migration|pooler|postgres|report|run|settings|table)\.[a-z_]+")
EVENTS = {
    node.value
    for module in MODULES.values()
    for node in ast.walk(module)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _EVENT.fullmatch(node.value)
    if f"predeploy.{node.value}" not in MODULES
}


def test_the_events_are_found() -> None:
    assert {"run.started", "migration.failed", "migration.late", "settings.unknown", "connection.silent"} <= EVENTS
    assert len(EVENTS) >= 28


def test_every_event_is_explained() -> None:
    assert [event for event in sorted(EVENTS) if f"`{event}`" not in PAGE] == []


def test_every_explained_event_exists() -> None:
    assert {name for name in re.findall(r"`([a-z.]+_?[a-z]+)`", PAGE) if _EVENT.fullmatch(name)} <= EVENTS


def test_every_exit_code_has_its_section() -> None:
    headings = [int(code) for code in re.findall(r"^### (\d+)(?::| and more:) \S", PAGE, re.MULTILINE)]
    assert headings == [*sorted(EXIT_CODES), 128]


def test_every_reason_to_wait_is_explained() -> None:
    values = vars(login_error_table).values()
    failures = [value for value in values if isinstance(value, login_error_table.LoginFailure)]
    assert len(failures) > 30
    assert {f.reason for f in failures if not f.permanent and f"`{f.reason}`" not in PAGE} == set()


def test_the_table_of_errors_is_that_of_the_program() -> None:
    expected: dict[str, list[str]] = {}
    for code, advice in [*ADVICE.items(), *((str(key[0]), advice) for key, advice in SPECIAL.items())]:
        if advice not in expected.setdefault(code, []):
            expected[code].append(advice)
    table = re.findall(r"^\| ([0-9A-Z]{5}) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in table] == sorted(expected)
    assert {(code, condition, *advice.split(" *or* ")) for code, condition, advice in table} == {
        (code, condition_of(code), *advices) for code, advices in expected.items()
    }


def test_every_field_of_a_failure_is_explained() -> None:
    fields = {"error", "hint", "advice", "sqlstate", "condition", "line", "column", "statement", "statements"}
    fields |= {"command", "after_failure", *NAMES}
    section = PAGE.partition("\n## When a file fails\n")[2].partition("\n## ")[0]
    assert {field for field in fields if f"`{field}`" not in section} == set()


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / "docs" / target).exists(), target
