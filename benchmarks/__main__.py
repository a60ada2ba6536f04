"""The command line: which workloads, how thoroughly, and whether to write the page."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

from benchmarks import machine, migrations, table
from benchmarks.crowds import replicas, together
from benchmarks.effort import WORDS, Effort
from benchmarks.image import image
from benchmarks.install import PEERS, ROOT, Unavailable
from benchmarks.outcome import Outcome, from_json, to_json
from benchmarks.page import page, section
from benchmarks.pending import big_file, heavy, light, many_small, slow_disk
from benchmarks.plot import plot
from benchmarks.process import Failed, measure
from benchmarks.runners import NAIVE, OURS, RUNNERS
from benchmarks.stage import databases, stage
from benchmarks.starts import start, start_line, start_many

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.stage import Stage

# With the minutes that each takes on two cores, about.
WORKLOADS: dict[str, tuple[Callable[[Stage, Effort], Outcome], float]] = {
    "many-small": (many_small, 4),
    "light": (light, 0.6),
    "slow-disk": (slow_disk, 1),
    "heavy": (heavy, 2),
    "start": (start, 0.3),
    "start-line": (start_line, 0.5),
    "start-many": (start_many, 0.8),
    "together": (together, 1),
    "replicas": (replicas, 1.3),
    "big-file": (big_file, 2),
    "image": (image, 1.5),
}
RESULTS = PEERS / "results.json"
QUICK = Effort(short=2, long=1, few=1, divisor=20)


def main(arguments: Sequence[str]) -> int:
    """Run the workloads; return 1 when one could not be run, or by us, or when a count is not what it should be."""
    options = _parse(arguments)
    effort = _effort(options)
    chosen = options.workloads or [name for name in WORKLOADS if not (options.quick and name == "image")]
    done = _load() if options.resume else {}
    description = machine.describe()
    print(f"About {sum(WORKLOADS[name][1] for name in chosen) / effort.divisor:.0f} minutes.\n", flush=True)
    with stage() as server:
        _warm_up(server)
        for name in chosen:
            if name in done and done[name].rows and not options.workloads:
                continue
            started = time.monotonic()
            done[name] = _run(name, server, effort)
            if effort.is_whole:
                RESULTS.write_text(json.dumps({name: to_json(outcome) for name, outcome in done.items()}, indent=1))
            print(section(done[name]), flush=True)
            print(f"({time.monotonic() - started:.0f} s)\n", flush=True)
    outcomes = [done[name] for name in WORKLOADS if name in done]
    print(table.targets([outcome for outcome in outcomes if outcome.targets]), flush=True)
    if options.write:
        _write(outcomes, description, effort)
    return 0 if all(_is_sound(outcome) for outcome in outcomes) else 1


def _is_sound(outcome: Outcome) -> bool:
    """Tell whether a workload was run, by us too, and every count is right; times are for people to judge."""
    counts = all(target.is_met for target in outcome.targets if target.is_count)
    return counts and outcome.left_out.keys().isdisjoint({outcome.workload, OURS})


def _run(name: str, server: Stage, effort: Effort) -> Outcome:
    """Run a workload; one that cannot be run is an outcome that says why."""
    try:
        outcome = WORKLOADS[name][0](server, effort)
    except (Unavailable, Failed) as why:
        outcome = Outcome(name, name, left_out={name: str(why)})
    except Exception as bug:  # the other workloads may be whole all the same
        traceback.print_exc()
        outcome = Outcome(name, name, left_out={name: f"{type(bug).__name__}: {bug}"})
    if not effort.is_whole:
        outcome.targets = [target for target in outcome.targets if target.is_count]  # figures are about the whole size
    return outcome


def _warm_up(server: Stage) -> None:
    """Have the byte code of everything in this repository written."""
    pending = migrations.heavy(2)
    for name in (OURS, NAIVE):
        directory = server.lay_out(RUNNERS[name], pending.migrations)
        database = server.database()
        with databases(server, database):
            measure(RUNNERS[name].call(directory, server.dsn(database)))


def _write(outcomes: Sequence[Outcome], description: Mapping[str, str], effort: Effort) -> None:
    docs = ROOT / "docs"
    (docs / "performance.md").write_text(page(outcomes, description, effort))
    (docs / "performance.svg").write_text(plot(outcomes))
    print("\nWritten: docs/performance.md, docs/performance.svg")


def _load() -> dict[str, Outcome]:
    if not RESULTS.exists():
        return {}
    return {name: from_json(data) for name, data in json.loads(RESULTS.read_text()).items()}


def _effort(options: argparse.Namespace) -> Effort:
    default = QUICK if options.quick else Effort()
    only = frozenset(WORDS.get(name, name) for name in options.only.split(",") if name)
    unknown = only - {name.split(",")[0] for name in RUNNERS}
    if unknown:
        sys.exit(f"scripts/bench: nobody is called {', '.join(sorted(unknown))}")
    return Effort(
        short=options.pairs_short or default.short,
        long=options.pairs_long or default.long,
        few=default.few,
        divisor=default.divisor,
        only=only,
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure pg-predeploy beside its peers.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"all, or some of: {', '.join(WORKLOADS)}")
    parser.add_argument("--pairs-short", type=int, help="rounds of workloads that take less than a second (21)")
    parser.add_argument("--pairs-long", type=int, help="rounds of the others (5)")
    parser.add_argument("--only", default="", help="who takes part: ours,floor,naive,dbmate,...")
    parser.add_argument("--quick", action="store_true", help="see that it works: small, and no image unless named")
    parser.add_argument(
        "--resume", action="store_true", help="keep what was measured already; what is named is measured again"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    options = parser.parse_args(arguments)
    if unknown := set(options.workloads) - WORKLOADS.keys():
        parser.error(f"no workload is called {', '.join(sorted(unknown))}")
    if options.quick and options.write:
        parser.error("--write is for figures, and --quick has none")
    return options


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    PEERS.mkdir(exist_ok=True)
    try:
        sys.exit(main(sys.argv[1:]))
    except (Unavailable, Failed) as why:  # before any workload: without a compiler nothing is measured
        sys.exit(f"scripts/bench: {why}")
