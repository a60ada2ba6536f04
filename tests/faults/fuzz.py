"""Run many trials in several workers within a time limit, for scripts/fuzz.

Every violation is printed with the command that repeats its trial.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from tests.faults.failover_stage import FailoverStage
from tests.faults.plan import FAILOVER_PATHS, Focus, Plan, draw, draw_failover
from tests.faults.planted import BUGS
from tests.faults.points import points
from tests.faults.stage import Stage
from tests.faults.trial import Trial, measure, measure_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.queues import SimpleQueue

    from tests.faults.plan import Length
    from tests.faults.trial import Outcome

FRESH_EVERY = 25  # one fresh process per this many forks
ENOUGH_VIOLATIONS = 20
PROGRESS_EVERY = 500
PLANTED_TRIALS = 60
MID_RUN = 0.4


@dataclass(slots=True)
class Tally:
    """The results of trials: their number, how many faults occurred, and how many of them between login and logout.

    `withdrawn` counts the trials in which a report was withdrawn.
    """

    trials: int = 0
    fired: int = 0
    mid_run: int = 0
    withdrawn: int = 0
    exit_codes: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.trials += 1
        self.fired += bool(outcome.fired)
        self.mid_run += outcome.mid_run
        self.withdrawn += bool(outcome.withdrawn)
        self.exit_codes[outcome.exit_code] += 1
        self.faults.update(kind for kind, _ in outcome.fired)
        if outcome.violations:
            self.violations.append(str(outcome))

    def __str__(self) -> str:
        shares = (
            f"{self.fired / self.trials:.0%} fired, {self.mid_run / self.trials:.0%} mid-run" if self.trials else ""
        )
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.exit_codes.items()))
        return (
            f"{self.trials} trials, {shares}, {len(self.violations)} violations\n"
            f"  faults: {faults}\n  exit codes of the faulted runs: {codes}"
            f"; {self.withdrawn} withdrew a report"
        )


def random_plans(stage: Stage, seed: str, numbers: Iterable[int], focus: Focus | None = None) -> Iterator[Plan]:
    """Draw the trials with these numbers; each depends only on the seed and its number."""
    lengths = measure(stage)
    for number in numbers:
        fresh = number % FRESH_EVERY == FRESH_EVERY - 1
        chance = random.Random(f"{seed}:{number}")  # noqa: S311  must be reproducible, not secret
        yield draw(chance, lengths, focus or Focus(), fresh=fresh)


def failover_plans(stage: Stage, seed: str, numbers: Iterable[int], focus: Focus | None = None) -> Iterator[Plan]:
    """Draw the failover trials with these numbers; each depends only on the seed and its number."""
    length = _failover_length(stage)
    for number in numbers:
        chance = random.Random(f"{seed}:failover:{number}")  # noqa: S311  must be reproducible, not secret
        yield draw_failover(chance, length, focus or Focus())


@cache
def _failover_length(stage: Stage) -> Length:
    return measure_path(stage, FAILOVER_PATHS[0])


def open_stage(bug: str = "", plan: Plan | None = None) -> Stage:
    """Return the stage for a planted bug or for one plan."""
    paths = [plan.path] if plan else BUGS[bug].focus.paths if bug else []
    return FailoverStage(bug) if {*paths} & {*FAILOVER_PATHS} else Stage(bug)


def attempt(stage: Stage, plans: Iterable[Plan]) -> Tally:
    """Run the trials one after the other, until too many of them show a violation."""
    tally = Tally()
    for plan in plans:
        tally.add(Trial(stage, plan).run())
        if len(tally.violations) >= ENOUGH_VIOLATIONS:
            break
    return tally


def caught(stage: Stage, bug: str, seed: str, trials: int = PLANTED_TRIALS) -> tuple[int, str]:
    """Return the number of the first trial that catches the stage's planted bug, and its finding; 0 if none does."""
    plans = failover_plans if isinstance(stage, FailoverStage) else random_plans
    for number, plan in enumerate(plans(stage, seed, range(trials), BUGS[bug].focus), 1):
        outcome = Trial(stage, plan).run()
        if outcome.violations:
            return number, str(outcome)
    return 0, ""


def _work(share: int, options: argparse.Namespace, queue: SimpleQueue[Outcome | None]) -> None:
    """Run every n-th trial; send each outcome, and None at the end."""
    deadline = time.monotonic() + options.minutes * 60

    def run(stage: Stage, plans: Iterable[Plan]) -> None:
        for plan in plans:
            if time.monotonic() > deadline:
                break
            queue.put(Trial(stage, plan).run())

    def numbers(trials: int) -> Iterable[int]:
        return range(share, trials // len(options.seeds), options.workers)

    try:
        if options.points or options.trials:
            with Stage() as stage:
                run(stage, points(stage, options.points)[share :: options.workers] if options.points else [])
                for seed in options.seeds if options.trials else []:
                    run(stage, random_plans(stage, seed, numbers(options.trials)))
        if options.failovers:
            with FailoverStage() as stage:
                for seed in options.seeds:
                    run(stage, failover_plans(stage, seed, numbers(options.failovers)))
    finally:
        queue.put(None)


def fuzz(options: argparse.Namespace) -> int:
    """Distribute the trials among workers, print their findings and return the exit code."""
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[Outcome | None] = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(n, options, queue)) for n in range(options.workers)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    tally, running = Tally(), len(workers)
    while running:
        outcome = queue.get()
        if outcome is None:
            running -= 1
            continue
        tally.add(outcome)
        if outcome.violations:
            print(f"VIOLATION {outcome}\n  again: scripts/fuzz --again '{outcome.plan}'", flush=True)
        elif tally.trials % PROGRESS_EVERY == 0:
            print(f"... {tally.trials} trials", flush=True)
    for worker in workers:
        worker.join()
    minutes = (time.monotonic() - started) / 60
    print(f"seeds {', '.join(options.seeds)}: {tally}\n  {tally.trials / minutes:.0f} trials a minute")
    died = [worker.exitcode for worker in workers if worker.exitcode]
    per_seed = options.trials // len(options.seeds) + options.failovers // len(options.seeds)
    wanted = options.points + per_seed * len(options.seeds)
    if tally.trials < wanted:
        print(f"  ended after {minutes:.1f} of {options.minutes} minutes, with {tally.trials} of {wanted} trials")
    if died or tally.violations or tally.mid_run < MID_RUN * tally.trials:
        return 1
    return 0


def planted(options: argparse.Namespace) -> int:
    """Plant each bug and count in how many runs of 60 trials it is caught."""
    missed = 0
    for bug in BUGS if options.planted == "all" else [options.planted]:
        firsts = []
        with open_stage(bug) as stage:
            for run in range(options.runs):
                number, how = caught(stage, bug, f"{bug}:{run}")
                firsts.append(number)
                if run == 0:
                    print(f"{bug}: {how}")
        found = [number for number in firsts if number]
        print(f"{bug}: caught in {len(found)} of {len(firsts)} runs, first in trial {firsts}", flush=True)
        missed += len(found) < 0.95 * len(firsts)
    return 1 if missed else 0


def again(options: argparse.Namespace) -> int:
    """Repeat one trial until it shows a violation, or for the given number of times."""
    plan = Plan.parse(options.again)
    with open_stage(options.planted or "", plan) as stage:
        for number in range(1, options.times + 1):
            trial = Trial(stage, plan)
            outcome = trial.run()
            if outcome.violations:
                line = " ".join(f"{m.number}{'>' if m.sender == 'client' else '<'}{m.kind}" for m in trial.messages)
                print(f"time {number}: {outcome}\n{trial.said}\nmessages: {line}")
                return 1
    print(f"no violation in {options.times} attempts")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "--seeds", default="1", type=lambda text: text.split(","), help="seeds of the random trials: 1,2,3"
    )
    parser.add_argument("--trials", default=200, type=int, help="number of random trials over all seeds")
    parser.add_argument("--points", default=0, type=int, help="number of enumerated pairs of message and fault")
    parser.add_argument("--failovers", default=0, type=int, help="number of random failover trials over all seeds")
    parser.add_argument("--workers", default=2, type=int, help="number of workers, each with its own server")
    parser.add_argument("--minutes", default=60.0, type=float, help="time limit; the results so far are printed")
    parser.add_argument("--planted", choices=["all", *BUGS], help="plant a bug and check that it is caught")
    parser.add_argument("--runs", default=20, type=int, help="number of runs of 60 trials for each planted bug")
    parser.add_argument("--again", metavar="PLAN", help="repeat the trial that a violation names")
    parser.add_argument("--times", default=100, type=int, help="how often --again repeats the trial")
    options = parser.parse_args()
    if options.again:
        return again(options)
    return planted(options) if options.planted else fuzz(options)


if __name__ == "__main__":
    sys.exit(main())
