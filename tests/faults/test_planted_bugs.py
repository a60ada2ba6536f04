"""The fault injection must find planted bugs that are typical of migration runners."""

from __future__ import annotations

import pytest

from tests.faults.fuzz import caught, open_stage
from tests.faults.planted import BUGS, replace_text
from tests.support.program import ROOT


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_caught_within_sixty_trials(bug: str) -> None:
    with open_stage(bug) as stage:
        number, how = caught(stage, bug, "planted")
    print(f"caught in trial {number}: {how}")
    assert number, f"{bug} went unnoticed"


@pytest.mark.parametrize("source", ["go on\n", "wait\nwait\n"])
def test_a_bug_whose_source_text_has_changed_is_an_error(source: str) -> None:
    with pytest.raises(AssertionError, match="update this bug"):
        replace_text(source, [("wait", "pass")])


@pytest.mark.parametrize("name", BUGS)
def test_the_source_marks_the_lines_that_are_replaced(name: str) -> None:
    for module, text, _ in BUGS[name].replacements:
        source = (ROOT / "predeploy" / module.replace(".", "/")).with_suffix(".py").read_text()
        (line,) = [line for line in source.splitlines() if text in line]
        assert "tests/faults/planted.py" in line
