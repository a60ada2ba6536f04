"""What may block where neither a timeout nor a signal reaches, given a time of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, run in a thread of its own; raise TimeoutError after `seconds`.

    A name server that hangs blocks in C, where neither a timeout nor a signal reaches: only leaving the thread
    behind does. What comes after all, a connection say, is closed.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    ended, abandoned = threading.Event(), threading.Event()

    def work() -> None:
        try:
            result = call()
        except BaseException as error:
            errors.append(error)
        else:
            if abandoned.is_set() and (close := getattr(result, "close", None)):
                close()
            results.append(result)
        ended.set()

    threading.Thread(target=work, name="pg-predeploy-within", daemon=True).start()
    try:
        in_time = ended.wait(seconds)
    except BaseException:
        abandoned.set()
        raise
    if not in_time:
        abandoned.set()
        raise TimeoutError
    if errors:
        raise errors[0]
    return results[0]
