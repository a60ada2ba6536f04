"""Runs are disturbed at their protocol messages and then repeated without faults; no invariant may be violated.

`scripts/fuzz` does the same thousands of times, and prints how to repeat a trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.fuzz import MID_RUN, Tally, attempt, random_plans
from tests.faults.points import points

if TYPE_CHECKING:
    from tests.faults.plan import Plan
    from tests.faults.stage import Stage

SEED = "1"
BATCH = 20
RANDOM_TRIALS = 100
POINTS = 160


@pytest.fixture(scope="session")
def some_points(stage: Stage) -> list[Plan]:
    return points(stage, POINTS)


def assert_unhurt(tally: Tally, trials: int) -> None:
    print(tally)
    assert not tally.violations, "again: scripts/fuzz --again PLAN\n" + "\n".join(tally.violations)
    assert tally.trials == trials
    assert tally.mid_run >= MID_RUN * trials, "too few faults landed between the login and the last message"


@pytest.mark.parametrize("batch", range(RANDOM_TRIALS // BATCH))
def test_each_effect_happens_once_under_any_fault(stage: Stage, batch: int) -> None:
    print(f"seed {SEED}, trials {batch * BATCH} to {(batch + 1) * BATCH - 1}")
    plans = random_plans(stage, SEED, range(batch * BATCH, (batch + 1) * BATCH))
    assert_unhurt(attempt(stage, plans), BATCH)


@pytest.mark.parametrize("batch", range(POINTS // BATCH))
def test_a_run_survives_a_fault_at_any_message(stage: Stage, some_points: list[Plan], batch: int) -> None:
    assert len(some_points) == POINTS
    assert_unhurt(attempt(stage, some_points[batch :: POINTS // BATCH]), BATCH)
