"""If the primary crashes during a run and its standby is promoted, no invariant is violated on the new server.

`scripts/fuzz --failovers` runs many more such trials, and prints how to repeat one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.failover_stage import FailoverStage
from tests.faults.fault_proxy import logged_in
from tests.faults.fuzz import attempt, failover_plans
from tests.faults.plan import FAILOVERS, Plan
from tests.faults.trial import Trial, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_proxy import Message

SEED = "1"
TRIALS = 12
BATCH = 4
KINDS = ("slow", "no-transaction", "plain", "slow", "repeatable", "plain", "slow")


@pytest.fixture(scope="session")
def failover_stage() -> Iterator[FailoverStage]:
    with FailoverStage() as stage:
        yield stage


@pytest.fixture(scope="session")
def messages(failover_stage: FailoverStage) -> list[Message]:
    """The messages of a run without a failover, which are the same on each path."""
    return record(failover_stage, Plan("hosts", KINDS))


@pytest.mark.parametrize("batch", range(TRIALS // BATCH))
def test_a_run_survives_a_failover_at_any_message(failover_stage: FailoverStage, batch: int) -> None:
    print(f"seed {SEED}, trials {batch * BATCH} to {(batch + 1) * BATCH - 1}")
    tally = attempt(failover_stage, failover_plans(failover_stage, SEED, range(batch * BATCH, (batch + 1) * BATCH)))
    print(tally)
    assert not tally.violations, "again: scripts/fuzz --again PLAN\n" + "\n".join(tally.violations)
    assert tally.trials == BATCH
    assert sum(tally.faults[fault] for fault in FAILOVERS) >= BATCH - 1, (
        "more than one run has ended before its failover"
    )


@pytest.mark.parametrize("fault", FAILOVERS)
@pytest.mark.parametrize("path", ["hosts", "moved"])
def test_commits_that_a_failover_loses_are_withdrawn(
    failover_stage: FailoverStage, messages: list[Message], path: str, fault: str
) -> None:
    faults = (("detach", logged_in(messages)), (fault, len(messages) - 30))
    outcome = Trial(failover_stage, Plan(path, KINDS, faults)).run()
    assert not outcome.violations, f"again: scripts/fuzz --again PLAN\n{outcome}"
    assert [kind for kind, _ in outcome.fired] == ["detach", fault]
    assert outcome.withdrawn > 1
    assert outcome.exit_code == 1, "the withdrawn no-transaction file was not reported as failed"
