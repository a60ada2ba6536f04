"""Invariants of a run under any fault: each effect happens once, and the table, log and exit code are accurate."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.faults.plan import CUTS, FAILOVERS, KILLS, SIGNALS, STALLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_proxy import Message
    from tests.faults.plan import File, Plan

# A signal that arrives when this little is left to do may be too late to change the reported outcome.
_LAST_QUERIES = 4
UNCONFIRMED = "did not confirm"  # in the message if the time limit after a signal expired first
_SIGNAL_CODES = {"sigterm": 143, "sigint": 130, "freeze_sigterm": 143}


class Ended:
    """A run that has ended, as seen from outside; `status` is negative for a signal."""

    def __init__(self, who: str, status: int, stdout: str, stderr: str) -> None:
        self.who = who
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.killed = status == -signal.SIGKILL
        self.problems: list[str] = []
        self.events: list[dict[str, Any]] = []
        lines = stdout.split("\n")
        if lines.pop() and not self.killed:
            self.problems.append("the last line was not ended")
        for line in lines:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.problems.append(f"a line is no JSON: {line!r}")

    @property
    def report(self) -> dict[str, Any]:
        return self.events[-1] if self.events and self.events[-1].get("event") == "run.finished" else {}

    def names(self, event: str) -> list[str]:
        return [line["migration"] for line in self.events if line.get("event") == event]

    @property
    def applied(self) -> list[str]:
        """The migrations that were reported as applied, except those whose report was withdrawn."""
        applied: list[str] = []
        for line in self.events:
            if line.get("event") == "migration.applied":
                applied.append(line["migration"])
            elif line.get("event") == "migration.undone":
                applied.remove(line["migration"])
        return applied

    @property
    def in_doubt(self) -> list[str]:
        return [line["migration"] for line in self.events if line.get("in_doubt")]

    @property
    def failed(self) -> list[str]:
        return self.names("migration.failed")


@dataclass(frozen=True, slots=True)
class Observation:
    """The database after all runs have ended: the count of each effect, and the names in `_migrations`.

    `order` lists the migrations in the order of their effects.
    """

    effects: dict[tuple[str, int], int]
    rows: set[str]
    order: list[str]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known about a finished trial; `stranger` lists the migrations that a foreign session applied.

    `promoted` are the names in `_migrations` when the standby was promoted; None if there was no failover.
    """

    plan: Plan
    fired: list[tuple[str, Message]]
    messages: list[Message]
    run: Ended
    rivals: list[Ended]
    stranger: list[str]
    first: Observation
    clean: Ended
    second: Observation
    promoted: set[str] | None

    @property
    def failed_over_unseen(self) -> bool:
        """Whether the failover happened after the run's last response from the server, so that it went unnoticed."""
        failovers = [(kind, message) for kind, message in self.fired if kind in FAILOVERS]
        if not failovers:
            return False
        ((kind, message),) = failovers
        sent = {m.kind for m in self.messages[message.number - 1 :] if m.sender == "client"}
        last = max(m.number for m in self.messages if m.sender == "client" and m.kind != "X")
        is_answered = any(m.kind == "Z" for m in self.messages[last:])  # the server may send an error after it
        is_lost = kind == "crash_unnoticed" and message.kind != "X"  # the message itself was lost
        return sent <= {"X"} and is_answered and not is_lost

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.fired}


def violations(story: Story) -> list[str]:
    """Return every invariant that does not hold, as a sentence."""
    found = [*_once(story), *_logged(story), *_ended_well(story), *_clean(story), *_in_order(story)]
    found += [*_withdrawn(story), *_logged_in_order(story)]
    for ended in (story.run, *story.rivals, story.clean):
        found += [f"{ended.who}: {problem}" for problem in [*ended.problems, *_report(ended)]]
        if ended.stderr:
            found.append(f"{ended.who} wrote to stderr: {ended.stderr.strip().splitlines()[-1]}")
    return found


def _once(story: Story) -> Iterator[str]:
    """Each effect exists once, together with its row.

    A run starts a no-transaction file at most once, and never after its row was written.
    """
    runs = 1 + len(story.rivals) if story.kinds - {"rival", "waiter", "foreign"} else 1
    for file in story.plan.files:
        first = [story.first.effects.get((file.name, number), 0) for number in file.effects]
        second = [story.second.effects.get((file.name, number), 0) for number in file.effects]
        recorded = file.name in story.first.rows
        what = f"{file.name} ({file.kind}), row: {recorded}, effects: {first}, after the clean run {second}"
        if file.fails:
            if any(first) or any(second) or recorded or file.name in story.second.rows:
                yield f"a failed file has left effects: {what}"
            continue
        if file.name not in story.second.rows:
            yield f"not applied by the clean run: {what}"
        if file.transactional:
            if set(first) != {int(recorded)} or set(second) != {1}:
                yield f"not exactly once: {what}"
            continue
        if max(first) > runs or first != sorted(first, reverse=True):
            yield f"run more than once, or not in order: {what}"
        if (recorded and not all(first)) or second != [count + (not recorded) for count in first]:
            yield f"the effects do not match the row: {what}"
    strange = (story.first.rows | story.second.rows) - {file.name for file in story.plan.files}
    if strange or not story.first.rows <= story.second.rows:
        yield f"_migrations: {sorted(story.first.rows)}, after the clean run {sorted(story.second.rows)}"


def _logged(story: Story) -> Iterator[str]:
    """The log is accurate about applied and failed migrations, and complete unless a runner could not finish it."""
    run, rows = story.run, story.first.rows
    logged = Counter([*run.applied, *story.stranger, *(name for rival in story.rivals for name in rival.applied)])
    if (wrong := sorted(set(logged) - rows)) and not story.failed_over_unseen:
        yield f"reported as applied, but not applied: {wrong}"
    # Each runner may have applied the migrations that its log calls in doubt.
    in_doubt = {name for ended in (run, *story.rivals) for name in ended.in_doubt}
    if story.kinds & {*SIGNALS}:  # an interrupted runner counts the row of its running migration as its own
        in_doubt |= set(story.stranger)
    if twice := sorted(name for name, count in logged.items() if count > 1 and name not in in_doubt):
        yield f"reported as applied more than once: {twice}"
    lost_and_signalled = story.kinds & {*SIGNALS} and story.kinds & {*CUTS, "freeze_sigterm"}
    left_early = UNCONFIRMED in run.report.get("message", "")
    confirmed = not run.killed and not left_early and not lost_and_signalled
    if confirmed and (untold := sorted(rows - {*logged, *story.plan.known})):
        yield f"applied but not reported: {untold}: {run.report.get('message')}"
    shaken = bool(story.kinds & {*CUTS, *KILLS, *SIGNALS, *FAILOVERS, *STALLS})
    for ended in (run, *story.rivals):
        for file in story.plan.files:
            if file.name not in ended.failed or file.fails:
                continue
            interrupted = {*ended.names("connection.lost"), *ended.names("migration.undone")}
            may_fail = not file.transactional or bool(story.kinds & {*STALLS})  # the server's timeout would recur
            if not may_fail or not shaken or file.name not in interrupted:
                yield f"{ended.who} reports that {file.name} ({file.kind}) failed"
            elif file.name in rows and not story.rivals:
                yield f"{ended.who} reports that {file.name} failed, but it is applied"


def _in_order(story: Story) -> Iterator[str]:
    """The effects are in the order of the files, except those of a foreign session or from before the run."""
    others = {*story.stranger, *story.plan.known}
    for ended in (story.run, *story.rivals):  # another run may apply a file that failed in this one
        others |= {*ended.failed}
    order = [name for name in story.first.order if name not in others]
    if order != sorted(order, key=story.plan.order.index):
        yield f"effects out of order: {story.first.order}"


def _withdrawn(story: Story) -> Iterator[str]:
    """A report is withdrawn only if the promoted server does not confirm it."""
    for ended in (story.run, *story.rivals):
        undone = ended.names("migration.undone")
        if undone and (story.promoted is None or story.promoted & {*undone}):
            yield f"{ended.who} withdrew {undone}, but the promoted server has {story.promoted}"
        if undone and (story.plan.path == "synchronous" or not story.kinds & {*FAILOVERS}):
            yield f"{ended.who} withdrew {undone}, although nothing was lost"


def _logged_in_order(story: Story) -> Iterator[str]:
    """After a failover, a withdrawn file is applied again before anything later, and each file is counted once."""
    if story.rivals or story.stranger or story.promoted is None:
        return
    if story.run.status in {0, 1}:
        counts = [story.run.report.get(key, 0) for key in ("applied", "skipped", "failed")]
        if sum(counts) != len(story.plan.files):
            yield f"applied, skipped, failed: {counts}, but there are {len(story.plan.files)} files"
    decided = story.plan.known
    undone = story.run.names("migration.undone")
    for line in story.run.events:
        name = str(line.get("migration"))
        if line.get("event") == "migration.undone":
            decided.remove(name)
        elif line.get("event") in {"migration.applied", "migration.failed"}:
            decided.append(name)
            if name in undone and line["event"] == "migration.failed":
                continue  # a withdrawn no-transaction file fails at once
            earlier = story.plan.order[: story.plan.order.index(name)]
            if missing := sorted({*earlier} - {*decided}):
                yield f"{name} was applied or failed before {missing}"


def _report(ended: Ended) -> Iterator[str]:
    """The last line, the earlier lines and the exit code agree."""
    if ended.killed:
        return
    report = ended.report
    if not report:
        yield f"exit code {ended.status} without a last line run.finished"
        return
    said = {key: report.get(key) for key in ("exit_code", "applied", "failed")}
    if said != {"exit_code": ended.status, "applied": len(ended.applied), "failed": len(ended.failed)}:
        yield f"exit code {ended.status}, applied {ended.applied}, failed {ended.failed}, but the report: {said}"
    if ended.status == 0 and ended.failed:
        yield f"exit code 0 with failures: {ended.failed}"
    if ended.status == 1 and not ended.failed:
        yield "exit code 1 without a failure"
    if any(line.get("event") == "run.finished" for line in ended.events[:-1]):
        yield "run.finished more than once"
    if "lock.lost" in {line.get("event") for line in ended.events}:
        yield "the lock was lost, although no other session took it"
    if crashes := [line for line in ended.events if line.get("event") == "run.crashed"]:
        yield f"a crash: {crashes[0]['message']} at {crashes[0]['traceback'][-1]}"


def _ended_well(story: Story) -> Iterator[str]:
    """The faults explain the exit code, and it is 0 only if every migration is applied."""
    run, files = story.run, story.plan.files
    signals = [(kind, message) for kind, message in story.fired if kind in SIGNALS]
    if run.killed and story.kinds & set(KILLS):
        return
    expected = {0, 1} | {_SIGNAL_CODES[kind] for kind, _ in signals}
    if story.kinds & {*STALLS} and "57P05" in run.report["message"]:
        expected.add(6)  # the server ended the idle session while no migration was running, which would recur
    if run.status not in expected:
        yield f"the run ended with {run.status}: {run.report.get('message')}"
    elif run.status in {0, 1} and signals:
        after = [m for m in story.messages if m.kind == "Q" and m.number > signals[0][1].number]
        if len(after) > _LAST_QUERIES:
            yield f"the run continued after {signals[0][0]}: {len(after)} more queries, exit code {run.status}"
    for ended in (run, *story.rivals):
        if ended.status == 0 and not _all_there(files, story.first.rows) and not story.failed_over_unseen:
            yield f"{ended.who} ended with 0, but only these are applied: {sorted(story.first.rows)}"
    for rival in story.rivals:
        lock_wait_is_over = {4} if "rival" in story.kinds else set()
        if rival.status not in {0, 1, *lock_wait_is_over}:
            yield f"{rival.who} ended with {rival.status}: {rival.report.get('message')}"


def _all_there(files: list[File], rows: set[str]) -> bool:
    return all(file.name in rows for file in files)


def _clean(story: Story) -> Iterator[str]:
    failing = any(file.fails for file in story.plan.files)
    if story.clean.status != int(failing):
        yield f"the clean run ended with {story.clean.status}: {story.clean.report.get('message')}"
