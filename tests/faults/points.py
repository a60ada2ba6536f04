"""Every message of a few runs, with every fault that can occur there."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.faults.plan import Plan
from tests.faults.trial import record

if TYPE_CHECKING:
    from tests.faults.stage import Stage

FAULTS = ("cut_before", "cut_after", "cut_client", "terminate", "sigterm", "kill_before", "kill_after")
RUNS = (
    Plan("direct", ("plain",)),
    Plan("direct", ("ddl", "failing", "notice")),
    Plan("direct", ("plain", "no-transaction", "outside")),
    Plan("direct", ("plain", "rows", "ddl", "settings", "plain", "notice", "plain", "ddl", "plain", "plain")),
    Plan("direct", ("big",)),
    Plan("tls", ("plain", "ddl", "plain")),
    Plan("session", ("plain", "no-transaction", "plain")),
    Plan("transaction", ("plain", "ddl", "plain")),
)


def points(stage: Stage, wanted: int | None = None) -> list[Plan]:
    """Return every point, or a random sample of the given size that is always the same."""
    found = [
        replace(run, faults=((fault, message.number),))
        for run in RUNS
        if run.path in stage.proxies
        for message in record(stage, run)
        for fault in FAULTS
    ]
    always_the_same = random.Random(0)  # noqa: S311
    chosen = always_the_same.sample(range(len(found)), min(wanted or len(found), len(found)))
    return [found[number] for number in sorted(chosen)]
