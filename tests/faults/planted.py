"""Bugs that are typical of migration runners, planted in this one; the fault injection must find them.

Each bug replaces text in the program's source during import, in a separate process. Text that is missing from the
source is an error, so that no bug is silently omitted. Comments in the source mark the lines that are replaced.
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

_PRIMARY = ("hosts", "moved")
_CUTS = ("cut_before", "cut_after", "cut_client", "terminate", "kill_before", "kill_after")


@dataclass(frozen=True, slots=True)
class Bug:
    """The replacements, as (module, text, new text), and the trials that exercise this code."""

    replacements: Sequence[tuple[str, str, str]]
    focus: Focus


BUGS: Mapping[str, Bug] = {
    "record_in_a_second_transaction": Bug(
        (
            ("apply.executor", 'f"{claim};"', '"SELECT 1;"'),
            ("apply.executor", "if chunk.last and may_lose_row:", "if False:"),
            (
                "apply.executor",
                "            if self._profile.commit == COMMIT and not self.committed:",
                (
                    "            run(self._conn, self._claim())\n"
                    "            if self._profile.commit == COMMIT and not self.committed:"
                ),
            ),
            ("apply.batch", "self.is_possible = can_raise_notice", "self.is_possible = False"),
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
                "rows = read_rows(conn, self._table) or {}",
                "rows = {} if self.state.losses else read_rows(conn, self._table) or {}",
            ),
            ("apply.migrator", "rows = {} if table.is_new", "rows = {} if table.is_new or self.state.losses"),
        ),
        Focus(faults=("cut_before", "cut_after", "cut_client", "terminate")),
    ),
    "trusting_memory_after_a_reconnect": Bug(
        (("apply.run_state", "self._applied if not is_applied(m, recorded)]", "()]"),),
        Focus(paths=_PRIMARY),
    ),
    "no_lock": Bug(
        (
            ("lock.advisory_lock", 'f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})"', '"SELECT true"'),
            ("lock.advisory_lock", 'f"pg_catalog.pg_try_advisory_xact_lock({LOCK_KEY})"', "'true'"),
            ("lock.advisory_lock", "        _unlock(conn, completed=completed)", "        pass"),
        ),
        Focus(faults=("rival", "waiter"), special="no-transaction"),
    ),
    "session_lock_through_the_pooler": Bug(
        (("apply.migrator", "if self._backend_pid is None:", "if False:"),),
        Focus(paths=("transaction",)),
    ),
    "session_left_behind_after_a_signal": Bug(
        (
            ("connection.query_message", "cancel(conn, _CANCEL_AFTER_SIGNAL_S)", "pass"),
            (
                "apply.migrator",
                "end_session(self._db, conn, stack, session)",
                "(stack.enter_context(self._db.connection(timeout=1.0)), conn.close() is None)",
            ),
        ),
        Focus(faults=("sigterm", "sigint"), special="sleeping"),
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
    """Plant the bug in every module that is imported from now on."""
    modules: dict[str, list[tuple[str, str]]] = {}
    for module, text, others in BUGS[name].replacements:
        modules.setdefault(f"predeploy.{module}", []).append((text, others))
    assert not modules.keys() & sys.modules.keys(), "imported before the bug could be planted"
    sys.meta_path.insert(0, _Finder(modules))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, modules: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec
        assert spec.origin
        spec.loader = _Loader(fullname, spec.origin, self._modules[fullname])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, replacements: Sequence[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self._replacements = replacements

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        """Compile the source again, because byte code on disk does not contain the bug."""
        path = self.get_filename(fullname)
        source = replace_text(self.get_data(path).decode(), self._replacements)
        return compile(source, path, "exec", dont_inherit=True)


def replace_text(source: str, replacements: Sequence[tuple[str, str]]) -> str:
    """Return the source with the bug; raise an error unless the text occurs exactly once."""
    for text, others in replacements:
        assert source.count(text) == 1, (
            f"{text!r} occurs {source.count(text)} times in the source, not once: update this bug"
        )
        source = source.replace(text, others)
    return source
