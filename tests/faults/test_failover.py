"""The primary crashes during a run, its standby is promoted, and no invariant may be violated on the new server.

`scripts/fuzz --failovers` does the same many times, and prints how to repeat a trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.failover_stage import FailoverStage
from tests.faults.fuzz import attempt, failover_plans
from tests.faults.plan import FAILOVERS, Focus, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = "1"
BATCH = 4


@pytest.fixture(scope="session")
def failover_stage() -> Iterator[FailoverStage]:
    with FailoverStage() as stage:
        yield stage


@pytest.mark.parametrize("path", ["hosts", "moved", "synchronous"])
def test_a_run_survives_a_failover(failover_stage: FailoverStage, path: str) -> None:
    print(f"seed {SEED}")
    tally = attempt(failover_stage, failover_plans(failover_stage, SEED, range(BATCH), Focus(paths=(path,))))
    print(tally)
    assert not tally.violations, "again: scripts/fuzz --again PLAN\n" + "\n".join(tally.violations)
    assert tally.fired == tally.trials == BATCH
    assert (tally.faults.keys() & {*FAILOVERS}) and (tally.withdrawn or path == "synchronous")
