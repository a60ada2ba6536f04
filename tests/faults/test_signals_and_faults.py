"""Signals that are easily lost: while a notice is logged, or at the moment when the connection breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.fuzz import attempt
from tests.faults.plan import Plan
from tests.faults.trial import Trial, record

if TYPE_CHECKING:
    from tests.faults.stage import Stage

ANSWER_S = 2.0  # the documented limit
AFTER_A_SIGNAL = ("sigterm", "cut_line", "cut_before", "cut_client", "terminate")


@pytest.mark.parametrize("then", AFTER_A_SIGNAL)
@pytest.mark.parametrize("kinds", ["plain", "rows"])
def test_a_signal_is_not_lost_if_the_connection_breaks_next(stage: Stage, kinds: str, then: str) -> None:
    """The run cancels the statement before it ends; it must end even if the cancellation fails."""
    run = Plan("direct", (kinds, "plain"))
    login, *_, last = [m.number for m in record(stage, run) if m.kind in "ZX"]
    plans = [replace(run, faults=(("sigterm", number), (then, number + 1))) for number in range(login, last, 5)]
    assert attempt(stage, plans).violations == []


def test_a_signal_while_notices_are_logged_is_handled_like_any_other(stage: Stage) -> None:
    run = Plan("direct", ("notices",))
    notices = [message.number for message in record(stage, run) if message.kind == "N"]
    tally = attempt(stage, [replace(run, faults=(("sigterm", number),)) for number in notices[::10]])
    assert tally.violations == []


@pytest.mark.parametrize("first", range(1, 65, 4))  # about 30 of the messages belong to the fast path
def test_a_signal_ends_a_run_whose_connection_froze_at_any_of_its_first_messages(stage: Stage, first: int) -> None:
    for number in range(first, first + 4):
        trial = Trial(stage, Plan("direct", ("plain",), (("freeze_sigterm", number),)))
        outcome = trial.run()
        assert (outcome.violations, outcome.exit_code) == ([], 143)
        assert trial.answer_s < ANSWER_S + 1, f"frozen at message {number}"
