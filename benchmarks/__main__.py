"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import compileall
import sys
import time
import traceback

from benchmarks import report
from benchmarks.install import ROOT, Failed, compiled
from benchmarks.measure import Result
from benchmarks.runners import FLOOR, PG_PREDEPLOY, RUNNERS
from benchmarks.server import running_server
from benchmarks.workloads import TARGETS, WORKLOADS, Bench

NAMES = {"floor" if name == FLOOR else name: name for name in RUNNERS if "," not in name}


def main(arguments: list[str]) -> int:
    """Run workloads; return 1 if a workload fails, if pg-predeploy fails in it, or if a count misses its target."""
    options = _parse(arguments)
    rounds = (options.rounds or 21, options.rounds or 5) if not options.quick else (2, 1)
    machine = report.machine()
    compiled("measure")  # fail early: nothing can be measured without a compiler
    compileall.compile_dir(ROOT / "predeploy", quiet=2)
    results: dict[str, Result] = {}
    with running_server() as server:
        for name in options.workloads or [name for name in WORKLOADS if not (options.quick and name == "docker")]:
            started = time.monotonic()
            workload = WORKLOADS[name]
            size = max(workload.size // 20, min(workload.size, 4)) if options.quick else workload.size
            result = results[name] = Result(workload.title.format(size), workload.baseline)
            try:
                workload.measure(Bench(server, result, frozenset(NAMES[name] for name in options.only), *rounds), size)
            except Exception as error:  # continue: the other workloads may work
                traceback.print_exc()
                result.not_measured[name] = str(error)
            print(report.section(result), f"({time.monotonic() - started:.0f} s)\n", sep="\n", flush=True)
    # With --quick, check only counts: the limits of all other figures apply to the full size.
    targets = [target for target in TARGETS if target.workload in results and not (options.quick and target.unit)]
    print(report.targets_table(results, targets))
    if options.write:
        (ROOT / "docs/performance.md").write_text(report.page(results, targets, machine, rounds))
        (ROOT / "docs/performance.svg").write_text(report.plot(results.values()))
    counts = [(target.found(results[target.workload]) or 0, target.limit) for target in targets if not target.unit]
    broken = any({name, PG_PREDEPLOY} & result.not_measured.keys() for name, result in results.items())
    return int(broken or any(found > limit for found, limit in counts))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compare migration runners.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"any of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help=f"any of {','.join(NAMES)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds; default: 21 for no-op starts, 5 for all others")
    parser.add_argument("--quick", action="store_true", help="small sizes, only count targets, no docker unless named")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and docs/performance.svg")
    options = parser.parse_args(arguments)
    for kind, given, known in (("workload", options.workloads, WORKLOADS), ("runner", options.only, NAMES)):
        if unknown := set(given) - known.keys():
            parser.error(f"unknown {kind}: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if options.write and (options.quick or options.only or options.workloads):
        parser.error("--write needs all figures: do not combine it with workloads, --quick or --only")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failure:
        sys.exit(f"scripts/bench: {failure}")
