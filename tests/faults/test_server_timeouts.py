"""If the role's timeouts end statements, transactions or sessions, each file is applied once or reported as failed.

The first test delays a message for longer than the timeouts, so that the server ends the session before the message
arrives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.plan import TIMEOUTS_PATH, Plan
from tests.faults.trial import Trial, record

if TYPE_CHECKING:
    from tests.faults.stage import Stage

POINTS = 4


@pytest.mark.parametrize(
    "kinds", [("plain", "ddl", "plain"), ("big", "plain"), ("plain", "no-transaction", "outside")], ids=",".join
)
def test_a_run_survives_if_the_server_ends_the_session_before_a_delayed_message(
    stage: Stage, kinds: tuple[str, ...]
) -> None:
    plan = Plan(TIMEOUTS_PATH, kinds)
    queries = [m.number for m in record(stage, plan) if m.sender == "client" and m.kind == "Q"][1:]
    chosen = queries[:: max(len(queries) // POINTS, 1)]
    lost = 0
    for number in chosen:
        trial = Trial(stage, replace(plan, faults=(("stall", number),)))
        outcome = trial.run()
        assert not outcome.violations, f"again: scripts/fuzz --again PLAN\n{outcome}"
        lost += '"connection.lost"' in trial.said
    assert lost, "the server did not end any session"


def test_a_file_that_exceeds_a_timeout_fails_and_the_others_are_applied(stage: Stage) -> None:
    outcome = Trial(stage, Plan(TIMEOUTS_PATH, ("plain", "overdue", "plain"))).run()
    assert (outcome.violations, outcome.exit_code) == ([], 1)
