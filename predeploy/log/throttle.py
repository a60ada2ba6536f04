"""Limit how often an ongoing wait is logged."""

from __future__ import annotations

import time


class LogThrottle:
    """Allows the first line, a line whenever the subject changes, and otherwise one line every `every` seconds.

    If `longest` is set, the interval doubles with each line about the same subject, up to `longest` seconds.
    """

    def __init__(self, every: float, longest: float | None = None) -> None:
        self._first = self._every = every
        self._longest = longest or every
        self._last: tuple[float, object] | None = None

    def should_log(self, subject: object) -> bool:
        """Return whether a line about `subject` is due; if so, restart the interval."""
        now = time.monotonic()
        if not self._last or self._last[1] != subject:
            self._every = self._first
        elif now - self._last[0] < self._every:
            return False
        else:
            self._every = min(2 * self._every, self._longest)
        self._last = (now, subject)
        return True
