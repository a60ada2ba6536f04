"""How much is to be measured, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.install import Unavailable
from benchmarks.runners import DBMATE, FLOOR, NAIVE, OURS, RUNNERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.outcome import Outcome

WORDS = {"ours": OURS, "floor": FLOOR, "naive": NAIVE}  # short for the command line
FULL = (OURS, f"{OURS}, MIGRATE_COMMIT=run", FLOOR, f"{FLOOR}, flushed once", DBMATE)
OTHERS = (NAIVE, *(name for name in RUNNERS if name not in {*FULL, NAIVE}))


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds of short and of long workloads; `few` for slow peers in long ones; what sizes are divided by; who."""

    short: int = 21
    long: int = 5
    few: int = 1
    divisor: int = 1
    only: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether the sizes are those that the targets speak of."""
        return self.divisor == 1

    def size(self, whole: int) -> int:
        """Return the size of a workload."""
        return max(whole // self.divisor, 4)

    def invites(self, name: str) -> bool:
        """Tell whether a contender is to take part."""
        return not self.only or name.split(",")[0] in self.only

    def contenders(self, names: tuple[str, ...], outcome: Outcome, empty: Path) -> Iterator[str]:
        """Yield those who take part and can be had here; the others are left out with the reason."""
        for name in names:
            if not self.invites(name):
                continue
            try:
                RUNNERS[name].call(empty, "postgresql:///nowhere")
            except Unavailable as why:
                outcome.left_out[name] = str(why)
            else:
                yield name
