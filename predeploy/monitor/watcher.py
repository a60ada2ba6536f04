"""A second pair of eyes on a message that has had no answer for long: tells what it does, hangs up where all is dead.

Neither keepalives nor timeouts end a wait for a peer that acknowledges and says nothing: a stopped server, a stuck
proxy. Only another connection can tell it from a statement that takes long.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import pq

from predeploy.connection.session import hang_up
from predeploy.errors import StorageError
from predeploy.monitor.statement_counter import Course

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.monitor.activity import Progress
    from predeploy.monitor.second_connection import Lookout

log = logging.getLogger(__name__)

FIRST_AFTER_S = 5.0  # without an answer, before it is looked whether the server is there at all
LONGEST_INTERVAL_S = 60.0
SILENCE_S = 15.0  # without an answer to any login, before the server is given up
_TICK_S = 0.5
_PARTING_S = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """A migration, since when (monotonic) it runs, and how far it is; none of them before the first."""

    migration: str | None = None
    started: float = field(default_factory=time.monotonic)
    course: Course = field(default_factory=Course)


class _Times:
    """When to look: `after` so many seconds, then at doubling intervals of at most 60 s."""

    def __init__(self, after: float) -> None:
        self._due = after

    def due(self, elapsed: float) -> bool:
        """Tell whether it is time."""
        return elapsed >= self._due

    def done(self, elapsed: float) -> None:
        """Count from here on."""
        self._due = elapsed + min(elapsed, LONGEST_INTERVAL_S)


class Watcher:
    """Looks from a connection of its own, opened for the first look and kept while a file runs; harms nobody.

    Writes `migration.progress` for a migration that has run for `tell_after` seconds, 0 meaning never, and then ever
    more seldom. Whatever is told, a message that has had no answer for 5 s is looked after, and the connection is hung
    up, so that it counts as lost, when nobody has answered for 15 s, or when the server waits for us while we wait for
    it: the line is dead then.
    """

    def __init__(self, db: ConnectionSource, conn: Connection, *, tell_after: float = 5.0) -> None:
        self._db = db
        self._conn = conn
        self._tell_after = tell_after
        self.backend: int | None = None  # the server's own word for it, once it is known
        self._watched = _Watched()
        self._thread = threading.Thread(target=self._run, name="pg-predeploy-watcher", daemon=True)
        self._ended = threading.Event()
        self._lookout: Lookout | None = None
        self._asked = 0.0  # since when the message on its way is waited for
        self._silent_since: float | None = None
        self._idle: Progress | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._lookout:  # not longer: it may be in the middle of a login
            self._thread.join(_PARTING_S)

    def watch(self, migration: str | None, course: Course) -> None:
        """Say which migration runs from now on, and where its results are counted."""
        self._watched = _Watched(migration, time.monotonic(), course)

    def _run(self) -> None:
        watched, heard, waiting = self._watched, 0, False
        tell, silence = _Times(self._tell_after), _Times(FIRST_AFTER_S)
        while not self._ended.wait(_TICK_S):
            if watched is not self._watched:
                watched, waiting = self._watched, False
                tell = _Times(self._tell_after)
                self._close()
            if not self._is_waiting():
                waiting = False
                continue
            if not waiting or heard != watched.course.heard:
                waiting, heard, silence = True, watched.course.heard, _Times(FIRST_AFTER_S)
                self._asked, self._silent_since, self._idle = time.monotonic(), None, None
            now = time.monotonic()
            to_tell = bool(watched.migration and self._tell_after) and tell.due(now - watched.started)
            to_look = silence.due(now - self._asked) or self._silent_since is not None or self._idle is not None
            if to_tell or to_look:
                self._look(watched, heard, tell=to_tell)
            if to_tell:
                tell.done(time.monotonic() - watched.started)
            if to_look:
                silence.done(time.monotonic() - self._asked)
        self._close()

    def _close(self) -> None:
        if self._lookout:
            self._lookout.close()

    def _is_waiting(self) -> bool:
        try:
            return self._conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        except psycopg.Error:  # closed
            return False

    def _look(self, watched: _Watched, heard: int, *, tell: bool) -> None:
        begun = time.monotonic()
        try:
            seen, answered = self._see(), True
        except TimeoutError:
            seen, answered = None, False
        except (StorageError, psycopg.Error, OSError, ValueError, LookupError):  # whatever it is, it harms nobody
            seen, answered = None, True
        if self._ended.is_set() or self._watched is not watched or not self._is_waiting():
            return
        if heard == watched.course.heard:
            self._judge(seen, begun, answered=answered)
        if tell and answered and not (seen and seen.is_idle):
            _tell(watched, seen)

    def _judge(self, seen: Progress | None, begun: float, *, answered: bool) -> None:
        """Hang up a connection that is dead: by two looks at least, of which the first came after 5 s."""
        now = time.monotonic()
        if now - self._asked < FIRST_AFTER_S:
            return
        self._silent_since = None if answered else self._silent_since or max(begun, self._asked + FIRST_AFTER_S)
        if self._silent_since is not None and now - self._silent_since >= SILENCE_S:
            self._hang_up("Postgres answers neither this connection nor a new one")
        idle = seen if seen and seen.is_idle else None
        if idle and idle == self._idle:
            self._hang_up("Postgres waits for us while we wait for it: the line is dead")
        self._idle = idle

    def _see(self) -> Progress | None:
        """Return what is seen, None where there is no answer to be had; raise TimeoutError where nobody answers."""
        from predeploy.monitor.activity import question, read
        from predeploy.monitor.second_connection import Lookout

        self._lookout = self._lookout or Lookout(self._db)
        told = self._conn.pgconn.backend_pid
        answer = self._lookout.ask(lambda other: question(other, self.backend, told))
        return read(answer) if answer else None

    def _hang_up(self, why: str) -> None:
        log.warning("%s: hanging up", why, extra={"event": "connection.silent", "migration": self._watched.migration})
        hang_up(self._conn)


def _tell(watched: _Watched, seen: Progress | None) -> None:
    elapsed_s = round(time.monotonic() - watched.started, 1)
    course = watched.course.fields()
    fields = {"migration": watched.migration, "elapsed_s": elapsed_s, **course, **(seen.fields if seen else {})}
    sentence = ", ".join(filter(None, [_place(course), str(seen or "")]))
    log.info(
        "%s has run for %.0f s%s",
        watched.migration,
        elapsed_s,
        f": {sentence}" if sentence else "",
        extra={"event": "migration.progress", **fields},
    )


def _place(course: dict[str, Any]) -> str:
    of = f" of {course['statements']}" if "statements" in course else ""
    if "statement" in course:
        what = ", ".join(filter(None, [course.get("command"), f"line {course['line']}"]))
        return f"statement {course['statement']}{of} ({what})"
    if "statement_at_least" in course:
        return f"at least at statement {course['statement_at_least']}{of}"
    return ""
