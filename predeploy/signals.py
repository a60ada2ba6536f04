"""SIGTERM and SIGINT: an exception ends the run, and if that takes too long, a forced exit.

The exception makes psycopg cancel the statement on the server, and lets every block clean up. A server that answers
neither the cancel request nor the rollback must not keep the process alive: the forced exit ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sys import UnraisableHookArgs
    from types import FrameType, TracebackType

FORCED_EXIT_AFTER_S = 1.4  # after the signal
FINAL_LINE_S = 0.3  # more for the last line, which blocks if stdout has no reader
_RESEND_AFTER_S = 0.001

_forced_exit: list[threading.Timer] = []  # the one that the first signal has started
_report_forced_exit: Callable[[Terminated], int] | None = None
_deferrals = 0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGINT arrived."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


def raise_on_signals(report_forced_exit: Callable[[Terminated], int]) -> None:
    """Raise `Terminated` in the main thread when the first signal arrives; ignore later ones.

    `report_forced_exit` writes the last line of a run that does not end in time, and returns its exit code.
    """
    global _report_forced_exit  # noqa: PLW0603  one process, one answer to its signals
    _report_forced_exit = report_forced_exit
    sys.excepthook = _print_unless_signal
    sys.unraisablehook = _resend_swallowed
    _handle(_raise)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # the image's launcher blocks them


def ignore_signals_until_reported() -> None:
    """Keep the outcome that is being reported; a signal only starts the timer of the forced exit."""
    _handle(_ignore_until_reported)


@contextmanager
def deferred() -> Iterator[None]:
    """Delay a signal until the end of the block, so that its steps happen all or not at all."""
    global _deferrals  # noqa: PLW0603  signals arrive in the main thread only
    _deferrals += 1
    try:
        yield
    finally:
        _deferrals -= 1


def signal_behind(error: BaseException | None) -> Terminated | None:
    """Return the signal behind an error: Python 3.11 wraps exceptions of `__set_name__` in a RuntimeError."""
    while error:
        if isinstance(error, Terminated):
            return error
        error = error.__cause__ or error.__context__
    return None


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handler)


def _raise(signum: int, frame: FrameType | None) -> None:
    end = Terminated(signum)
    _start_forced_exit(end)
    if _deferrals or _is_resending(frame):
        _resend(signum)
        return
    _handle(_ignore)  # a second signal must not interrupt the cleanup
    raise end


def _is_resending(frame: FrameType | None) -> bool:
    """Return whether the hook below is running: Python prints exceptions raised in it, and continues."""
    while frame and frame.f_code is not _resend_swallowed.__code__:
        frame = frame.f_back
    return frame is not None


def _resend_swallowed(swallowed: UnraisableHookArgs) -> None:
    """Send the signal again if Python swallowed its exception, as in a notice handler that libpq calls."""
    if isinstance(end := swallowed.exc_value, Terminated):
        _handle(_raise)
        _resend(end.signum)


def _print_unless_signal(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print nothing for a signal: Cython prints exceptions that it swallows before it calls the hook above."""
    if not isinstance(error, Terminated):
        sys.__excepthook__(kind, error, traceback)


def _resend(signum: int) -> None:
    threading.Timer(_RESEND_AFTER_S, os.kill, [os.getpid(), signum]).start()


def _ignore_until_reported(signum: int, _frame: FrameType | None) -> None:
    _handle(_ignore)
    _start_forced_exit(Terminated(signum))


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Replace SIG_IGN, which makes Python print a warning when two signals arrive at once."""


def _start_forced_exit(end: Terminated) -> None:
    if _forced_exit:
        return

    def leave() -> None:
        threading.Timer(FINAL_LINE_S, os._exit, [end.exit_code]).start()
        os._exit(_report_forced_exit(end) if _report_forced_exit else end.exit_code)

    timer = threading.Timer(FORCED_EXIT_AFTER_S, leave)
    timer.daemon = True
    _forced_exit.append(timer)
    timer.start()
