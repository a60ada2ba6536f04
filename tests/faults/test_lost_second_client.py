"""The pool mode that the second connection detects must not depend on lost connections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.fuzz import attempt
from tests.faults.plan import Plan
from tests.faults.trial import record

if TYPE_CHECKING:
    from tests.faults.stage import Stage


def test_session_mode_is_detected_even_if_the_second_connection_is_cut(stage: Stage) -> None:
    """If session mode were mistaken for transaction mode, a no-transaction file would be rejected with exit code 1."""
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
