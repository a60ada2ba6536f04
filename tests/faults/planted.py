"""Bugs that a runner of migrations may have, to be built into ours: whoever looks for faults must find these.

Each replaces words of the program's source while it is imported, in a process that does nothing else; words that are
not there any more are an error, not a bug that is never found.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults.plan import Focus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

_CUTS = ("cut_before", "cut_after", "cut_client", "terminate", "kill_before", "kill_after")


@dataclass(frozen=True, slots=True)
class Bug:
    """What is replaced where, as (room, words, other words), and the trials that look at this spot."""

    replacements: Sequence[tuple[str, str, str]]
    focus: Focus


BUGS: Mapping[str, Bug] = {
    "record_in_a_second_transaction": Bug(
        (
            ("apply.executor", '{self._claim()};"', 'SELECT 1;"'),
            ("apply.executor", "{proof}{self._frame.commit}", "{self._frame.commit}"),
            (
                "apply.executor",
                "        if self._frame.commit == COMMIT and not self.committed:",
                (
                    "        run(self._conn, self._claim())\n"
                    "        if self._frame.commit == COMMIT and not self.committed:"
                ),
            ),
            ("apply.batch", "self.is_possible = may_raise", "self.is_possible = False"),
        ),
        Focus(faults=_CUTS),
    ),
    "unchecked_on_conflict": Bug(
        (("apply.migrations_table", "join(values.values())})", "join(values.values())}) ON CONFLICT DO NOTHING"),),
        Focus(faults=("foreign",)),
    ),
    "no_reading_after_a_reconnect": Bug(
        (
            (
                "apply.migrator",
                "rows = read_rows(conn) or {}",
                "rows = {} if self._record.losses else read_rows(conn) or {}",
            ),
            ("apply.migrator", "rows = {} if table.is_new", "rows = {} if table.is_new or self._record.losses"),
        ),
        Focus(faults=("cut_before", "cut_after", "cut_client", "terminate")),
    ),
    "no_lock": Bug(
        (
            ("lock.advisory_lock", 'f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})"', '"SELECT true"'),
            ("lock.advisory_lock", 'f"pg_catalog.pg_try_advisory_xact_lock({LOCK_KEY})"', "'true'"),
            ("lock.advisory_lock", "        _unlock(conn)", "        pass"),
        ),
        Focus(faults=("rival", "waiter"), special="no-transaction"),
    ),
    "session_lock_through_the_pooler": Bug(
        (("apply.migrator", "if self._backend is None:", "if False:"),),
        Focus(paths=("transaction",)),
    ),
    "blocking_wait_for_the_lock": Bug(
        (
            (
                "lock.advisory_lock",
                "conn.execute(attempt).fetchone() != (True,)",
                "conn.execute(attempt.replace('try_', '')) is None",
            ),
        ),
        Focus(paths=("direct", "tls", "session"), faults=("waiter",), special="no-transaction"),
    ),
}


def plant(name: str) -> None:
    """Build the bug into every room that is imported from now on."""
    rooms: dict[str, list[tuple[str, str]]] = {}
    for room, words, others in BUGS[name].replacements:
        rooms.setdefault(f"predeploy.{room}", []).append((words, others))
    assert not rooms.keys() & sys.modules.keys(), "imported before the bug could be built in"
    sys.meta_path.insert(0, _Finder(rooms))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, rooms: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self._rooms = rooms

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._rooms:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec
        assert spec.origin
        spec.loader = _Loader(fullname, spec.origin, self._rooms[fullname])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, replacements: Sequence[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self._replacements = replacements

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        """Compile anew: byte code on disk has no bug."""
        path = self.get_filename(fullname)
        source = replace_words(self.get_data(path).decode(), self._replacements)
        return compile(source, path, "exec", dont_inherit=True)


def replace_words(source: str, replacements: Sequence[tuple[str, str]]) -> str:
    """Return the source with a bug in it; words that do not stand there just once are an error."""
    for words, others in replacements:
        assert source.count(words) == 1, f"{words!r} is there {source.count(words)} times: plant this bug anew"
        source = source.replace(words, others)
    return source
