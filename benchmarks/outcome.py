"""What a workload has shown, as data: rows of figures, targets met or missed, and notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.pairs import Quartiles, ratios

if TYPE_CHECKING:
    from benchmarks.pairs import Rounds


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's medians over its runs. `ratio` is its wall time to the baseline's, round by round.

    `extra` holds what is measured in this workload only, as text, by the heading of its column.
    """

    name: str
    runs: int
    wall_ms: float
    cpu_ms: float | None = None
    rss_mib: float | None = None
    ratio: Quartiles | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """What was found, and the most that it should be; `unit` is `x`, `MiB`, or nothing for a count."""

    what: str
    found: float
    limit: float
    unit: str = "x"

    @property
    def is_count(self) -> bool:
        """Whether it is the same on every machine."""
        return not self.unit

    @property
    def is_met(self) -> bool:
        """Whether it is no more than it should be, to the last digit measured."""
        return self.found <= self.limit


@dataclass(slots=True)
class Outcome:
    """Everything of a workload. `left_out` says of contenders, or of the workload itself, why there is no figure."""

    workload: str
    title: str
    baseline: str = ""
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row | None:
        """Return a contender's row, if it has one."""
        return next((row for row in self.rows if row.name == name), None)

    def add_rounds(self, rounds: Rounds, baseline: str) -> None:
        """Take over what was measured, each against the baseline where that was."""
        self.baseline = baseline if baseline in rounds.costs else ""
        self.left_out.update(rounds.failures)
        for name, costs in rounds.costs.items():
            self.rows.append(
                Row(
                    name,
                    len(costs),
                    median(cost.wall_ms for cost in costs),
                    median(cost.cpu_ms for cost in costs),
                    median(cost.rss_mib for cost in costs),
                    ratios(rounds.wall_ms(name), rounds.wall_ms(baseline)) if self.baseline else None,
                )
            )

    def add_target(self, what: str, rounds: Rounds, above: str, below: str, limit: float) -> None:
        """Compare two contenders' wall times, where both were measured."""
        if above in rounds.costs and below in rounds.costs:
            ratio = ratios(rounds.wall_ms(above), rounds.wall_ms(below)).median
            self.targets.append(Target(what, ratio, limit))


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON's types."""
    return asdict(outcome)


def from_json(data: dict[str, Any]) -> Outcome:
    """Return the outcome that `to_json` was given."""
    rows = [Row(**{**row, "ratio": row["ratio"] and Quartiles(**row["ratio"])}) for row in data["rows"]]
    return Outcome(**{**data, "rows": rows, "targets": [Target(**target) for target in data["targets"]]})
