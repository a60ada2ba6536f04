"""What looks for faults is itself looked at: bugs of the kind that runners of migrations have are built in and seen."""

from __future__ import annotations

import pytest

from tests.faults.fuzz import caught
from tests.faults.planted import BUGS
from tests.faults.stage import Stage


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_caught_within_sixty_trials(bug: str) -> None:
    with Stage(bug) as stage:
        number, how = caught(stage, bug, "planted")
    print(f"caught in trial {number}: {how}")
    assert number, f"{bug} went unnoticed"
