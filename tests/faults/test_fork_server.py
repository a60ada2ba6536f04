"""A forked runner behaves like the program that users start, but starts faster."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.plan import Plan
from tests.faults.trial import Trial
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from tests.faults.fork_server import Runner
    from tests.faults.stage import Stage

PASSING = {"timestamp", "duration_ms", "wait_s", "port"}
BOTH = pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])


def logged(output: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in output.splitlines()]
    return [{name: value for name, value in line.items() if name not in PASSING} for line in lines]


def start(stage: Stage, statement: str, *, fresh: bool, **variables: str) -> Runner:
    directory = stage.reset([], "direct")
    (directory / "001.sql").write_text(statement)
    environment = stage.rivals_environment("direct", directory, **variables)
    return stage.fork_server.start(environment, stage.directory / "forked", fresh=fresh)


def test_a_forked_run_logs_and_sends_the_same_as_a_fresh_one(stage: Stage) -> None:
    plan = Plan("direct", ("plain", "failing", "no-transaction", "notice"))
    said, sent = [], []
    for fresh in (False, True):
        trial = Trial(stage, plan if not fresh else Plan.parse(f"{plan}/fresh"))
        outcome = trial.run()
        assert (outcome.violations, outcome.exit_code) == ([], 1)
        said.append(logged("\n".join(line for line in trial.said.splitlines() if line.startswith("{"))))
        sent.append([(message.sender, message.kind) for message in trial.messages])
    assert said[0] == said[1]
    assert sent[0] == sent[1]


@BOTH
@pytest.mark.parametrize(("signum", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)])
def test_it_handles_signals_like_a_separate_process(stage: Stage, signum: str, status: int, fresh: bool) -> None:
    runner = start(stage, "SELECT pg_sleep(60)", fresh=fresh)
    try:
        sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        eventually(lambda: stage.admin(sleeping))
        runner.signal(signal.Signals[signum])
        assert runner.finish(20)
        assert (runner.status, runner.stderr) == (status, "")
    finally:
        runner.finish(0)
        runner.close()
    eventually(lambda: not stage.leftovers("direct", set()))


@BOTH
def test_it_sees_its_own_environment_and_nothing_else(stage: Stage, fresh: bool) -> None:
    runner = start(stage, "SELECT 1", fresh=fresh, MIGRATE_LOCK_TIMEOUT="soon")
    assert runner.finish(20)
    assert (runner.status, runner.stderr) == (2, "")
    assert "MIGRATE_LOCK_TIMEOUT" in runner.stdout
    runner.close()
