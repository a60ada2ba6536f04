"""One trial: a run with faults at chosen messages, then a run without faults, then the check of the invariants."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults.fault_proxy import Action, Message, logged_in
from tests.faults.invariants import Ended, Observation, Story, violations
from tests.faults.plan import Length, Plan
from tests.faults.stage import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.fork_server import Runner
    from tests.faults.stage import Stage

RUN_S = 40.0  # longer than any run with waits of at most 20 s
CLEAN_RUN_S = 20.0
RIVAL_S = 6.0  # for a rival that does not wait for the lock
SETTLE_S = 15.0
STALL_S = TIMEOUT_S + 0.3
_PAUSE_S = 0.005


@dataclass(slots=True)
class Outcome:
    """The result of a trial. `fired` lists the faults that occurred, each with its message."""

    plan: Plan
    fired: list[tuple[str, Message]]
    messages: int
    mid_run: bool
    violations: list[str]
    exit_code: int
    withdrawn: int = 0  # reports of an applied migration that were withdrawn

    def __str__(self) -> str:
        return f"{self.plan}: " + "; ".join(self.violations)


class Trial:
    """A running plan: carries out the faults when the proxy calls them."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.plan = plan
        self.fired: list[tuple[str, Message]] = []
        self.rivals: list[Runner] = []
        self.stranger: list[str] = []
        self.troubles: list[str] = []
        self.messages: list[Message] = []
        self.said = ""
        self.answer_s = 0.0  # from the first signal to the run's end
        self._signalled: float | None = None
        self._runner: Future[Runner] = Future()

    def run(self) -> Outcome:
        plan, stage = self.plan, self.stage
        self._directory = stage.reset(plan.files, plan.path)
        self._proxy = proxy = stage.proxies[plan.path]
        proxy.begin({number: self._fault(kind) for kind, number in plan.faults})
        environment = stage.environment(plan.path, self._directory)
        self._runner.set_result(stage.fork_server.start(environment, stage.directory / "run", fresh=plan.fresh))
        run = self._finish("the run", self._the_runner(), RUN_S)
        self.answer_s = time.monotonic() - self._signalled if self._signalled else 0.0
        self.messages = proxy.end()  # a frozen proxy must not keep the server's connections open
        rivals = [self._finish("another runner", rival, RUN_S) for rival in self.rivals]
        first = self._observe("the faults")
        proxy.begin()
        again = stage.fork_server.start(environment, stage.directory / "clean")
        clean = self._finish("the clean run", again, CLEAN_RUN_S)
        proxy.end()
        for runner in (self._the_runner(), *self.rivals, again):
            runner.close()
        second = self._observe("the clean run")
        self.said = "\n".join(f"{ended.who}:\n{ended.stdout}{ended.stderr}" for ended in (run, *rivals, clean))
        story = Story(plan, self.fired, self.messages, run, rivals, self.stranger, first, clean, second, stage.promoted)
        self.troubles += violations(story)
        for ended in (run, *rivals, clean):
            said = ended.stdout + ended.stderr
            self.troubles += [
                f"{ended.who} has printed a secret" for secret in stage.database.secrets if secret in said
            ]
        login = logged_in(self.messages)
        mid_run = any(login < message.number and message.kind != "X" for _, message in self.fired)
        withdrawn = len(run.names("migration.undone"))
        if self.troubles:
            stage.renew()
        return Outcome(plan, self.fired, len(self.messages), mid_run, self.troubles, run.status, withdrawn)

    def _finish(self, who: str, runner: Runner, timeout: float) -> Ended:
        if not runner.finish(timeout):
            self.troubles.append(f"{who} did not end within {timeout:g} s")
        assert runner.status is not None
        return Ended(who, runner.status, runner.stdout, runner.stderr)

    def _observe(self, after: str) -> Observation:
        """Wait until nothing runs any more, then observe the database."""
        if self._proxy.problems:
            raise self._proxy.problems[0]
        deadline = time.monotonic() + (0 if self.troubles else SETTLE_S)
        while left := self.stage.leftovers(self.plan.path, self._proxy.backends):
            if time.monotonic() > deadline:
                self.troubles.append(f"left behind after {after}: {left[0]}")
                break
            time.sleep(_PAUSE_S)
        return Observation(*self.stage.observe())

    def _fault(self, kind: str) -> Callable[[Message], Action]:
        def come_to_pass(message: Message) -> Action:
            self.fired.append((kind, message))
            carry_out = self.stage.faults.get(kind) or getattr(self, f"_{kind}")
            return carry_out() or Action.FORWARD

        return come_to_pass

    def _cut_before(self) -> Action:
        return Action.CUT_BEFORE

    def _cut_after(self) -> Action:
        return Action.CUT_AFTER

    def _cut_client(self) -> Action:
        return Action.CUT_CLIENT

    def _cut_line(self) -> Action:
        return Action.CUT_LINE

    def _stall(self) -> None:
        time.sleep(STALL_S)

    def _terminate(self) -> None:
        self.stage.terminate_backends()

    def _restart(self) -> None:
        self.stage.restart_server()

    def _sigterm(self) -> None:
        self._signal(signal.SIGTERM)

    def _sigint(self) -> None:
        self._signal(signal.SIGINT)

    def _freeze_sigterm(self) -> Action:
        self._signal(signal.SIGTERM)
        return Action.FREEZE

    def _signal(self, signum: signal.Signals) -> None:
        runner = self._the_runner()
        self._signalled = self._signalled or time.monotonic()
        runner.signal(signum)

    def _kill_before(self) -> Action:
        self._kill_after()
        return Action.CUT_BEFORE

    def _kill_after(self) -> None:
        runner = self._the_runner()
        runner.signal(signal.SIGKILL)
        assert runner.ended(10)

    def _rival(self) -> None:
        """Another runner starts and ends while the run is paused; it does not wait for the lock."""
        rival = self._start_rival(MIGRATE_LOCK_WAIT_TIMEOUT="0")
        if not rival.ended(RIVAL_S):
            self.troubles.append(f"another runner, that was not to wait for the lock, still ran after {RIVAL_S:g} s")
            rival.signal(signal.SIGKILL)

    def _waiter(self) -> None:
        """Another runner starts; the run continues when that runner waits for the lock or has ended."""
        rival = self._start_rival()
        deadline = time.monotonic() + RIVAL_S
        while not rival.ended(_PAUSE_S) and '"lock.waiting"' not in rival.stdout and time.monotonic() < deadline:
            if any(not granted for _, _, granted in self.stage.locks()):
                break

    def _foreign(self) -> None:
        """A session that ignores the lock applies a file and records it, unless the primary key rejects the row."""
        files = [file for file in self.plan.files if file.transactional and not file.fails]
        if files:
            file = files[self.fired[-1][1].number % len(files)]
            self.stranger += self.stage.apply_as_a_stranger(file)

    def _start_rival(self, **variables: str) -> Runner:
        environment = self.stage.rivals_environment(self.plan.path, self._directory, **variables)
        directory: Path = self.stage.directory / f"rival{len(self.rivals)}"
        rival = self.stage.fork_server.start(environment, directory)
        self.rivals.append(rival)
        return rival

    def _the_runner(self) -> Runner:
        return self._runner.result(timeout=10)


def record(stage: Stage, plan: Plan) -> list[Message]:
    """Run the plan, which has no faults, and return the messages of its run."""
    trial = Trial(stage, plan)
    outcome = trial.run()
    assert not outcome.violations, f"violation without a fault: {outcome}"
    return trial.messages


def measure(stage: Stage) -> dict[str, Length]:
    """Measure the number of messages of runs without faults."""
    return {path: measure_path(stage, path) for path in stage.proxies}


def measure_path(stage: Stage, path: str) -> Length:
    """Measure the number of messages on one path."""
    one, three = record(stage, Plan(path, ("plain",))), record(stage, Plan(path, ("plain",) * 3))
    per_file = (len(three) - len(one)) // 2
    return Length(logged_in(one), len(one) - per_file, per_file)
