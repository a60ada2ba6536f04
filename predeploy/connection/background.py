"""Run calls that may block without responding to timeouts or signals."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A call that starts immediately, in its own thread.

    If a DNS server hangs, the call blocks in C code that no timeout or signal can interrupt, so the thread can only be
    abandoned. If an abandoned call returns a result that can be closed, such as a connection, the thread closes it.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._ended, self._abandoned = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="pg-predeploy-background", daemon=True).start()

    def _run(self) -> None:
        try:
            result = self._call()
        except BaseException as error:
            self._errors.append(error)
        else:
            if self._abandoned.is_set() and (close := getattr(result, "close", None)):
                close()
            self._results.append(result)
        self._ended.set()

    def wait(self, seconds: float) -> T:
        """Return the call's result or raise its exception; raise TimeoutError after `seconds`."""
        try:
            in_time = self._ended.wait(seconds)
        except BaseException:
            self._abandoned.set()
            raise
        if not in_time:
            self._abandoned.set()
            raise TimeoutError
        if self._errors:
            raise self._errors[0]
        return self._results[0]


def call_with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Run `call` in its own thread and return its result; raise TimeoutError after `seconds`."""
    return BackgroundCall(call).wait(seconds)
