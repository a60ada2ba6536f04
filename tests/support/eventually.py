"""Patience with a limit: a condition that another process brings about is asked for until it holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def eventually(ask: Callable[[], T], timeout: float = 20) -> T:
    """Return the first answer that is true in a boolean sense."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(0.02)
    return answer
