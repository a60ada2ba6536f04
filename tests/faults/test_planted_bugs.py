"""What looks for faults is itself looked at: bugs of the kind that runners of migrations have are built in and seen."""

from __future__ import annotations

import pytest

from tests.faults.fuzz import caught
from tests.faults.planted import BUGS, replace_words
from tests.faults.stage import Stage


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_caught_within_sixty_trials(bug: str) -> None:
    with Stage(bug) as stage:
        number, how = caught(stage, bug, "planted")
    print(f"caught in trial {number}: {how}")
    assert number, f"{bug} went unnoticed"


@pytest.mark.parametrize("source", ["go on\n", "wait\nwait\n"])
def test_a_bug_whose_place_has_moved_is_an_error(source: str) -> None:
    with pytest.raises(AssertionError, match="plant this bug anew"):
        replace_words(source, [("wait", "pass")])
