"""What a second connection finds out must not depend on its luck."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.fuzz import attempt
from tests.faults.plan import Plan
from tests.faults.trial import record

if TYPE_CHECKING:
    from tests.faults.stage import Stage


def test_a_pooler_in_session_mode_is_seen_as_such_though_the_look_at_it_is_cut_off(stage: Stage) -> None:
    """Taken for one in transaction mode it would make a no-transaction file fail, and the exit code say: mend it."""
    if "session" not in stage.proxies:
        pytest.skip("no PgBouncer")
    run = Plan("session", ("no-transaction",))
    messages = record(stage, run)
    second_client = next(m.number for m in messages[2:] if m.kind == "startup")
    locked = next(m.number for m in messages[second_client:] if m.kind == "X")
    plans = [replace(run, faults=(("cut_after", number),)) for number in range(second_client, locked, 3)]
    tally = attempt(stage, plans)
    assert tally.violations == []
    assert tally.exit_codes == {0: len(plans)}
