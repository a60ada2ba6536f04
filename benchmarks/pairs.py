"""Runs side by side, and what their numbers say: medians, and the median of the ratios within each round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.process import Cost, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Of some numbers: the lower quartile, the median and the upper quartile."""

    lower: float
    median: float
    upper: float


def quartiles(numbers: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least one number; of a single one it is all three."""
    if len(numbers) == 1:
        return Quartiles(numbers[0], numbers[0], numbers[0])
    return Quartiles(*statistics.quantiles(numbers, n=4, method="inclusive"))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Quartiles:
    """Return the quartiles of the ratios round by round, over the rounds that both took part in."""
    return quartiles([above / below for above, below in zip(numerators, denominators, strict=False)])


@dataclass(frozen=True, slots=True)
class Rounds:
    """What each contender cost, round by round from the first, and why some could not be measured."""

    costs: dict[str, list[Cost]]
    failures: dict[str, str]

    def wall_ms(self, name: str) -> list[float]:
        """Return a contender's wall times."""
        return [cost.wall_ms for cost in self.costs[name]]


def play(
    contenders: Mapping[str, Callable[[], Cost]], count: int, few: int, full: Sequence[str], *, warm: bool = False
) -> Rounds:
    """Measure everyone in turn, A B C A B C, `count` times: those not in `full` only in the first `few` rounds.

    With `warm` a run of each goes before that is not counted. Whoever fails takes no further part.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    failures: dict[str, str] = {}
    for turn in range(-1 if warm else 0, count):
        for name, run in contenders.items():
            if name in failures or (name not in full and turn >= few):
                continue
            try:
                cost = run()
            except Failed as failure:
                failures[name] = str(failure)
                continue
            if turn >= 0:
                costs[name].append(cost)
    return Rounds({name: list_ for name, list_ in costs.items() if list_ and name not in failures}, failures)
