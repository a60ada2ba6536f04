"""Signal handling: raise an exception that ends the run, and force an exit if that takes too long.

As the exception propagates, the statement is cancelled on the server, and `finally` blocks clean up. The forced exit
ends the process even if the server responds to neither the cancel request nor the rollback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sys import UnraisableHookArgs
    from types import FrameType, TracebackType

# Selected by name, because Windows, where the library may be used, lacks two of these signals.
SIGNALS = tuple(signum for signum in signal.Signals if signum.name in {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"})
FORCED_EXIT_AFTER_S = 1.4  # after the signal
FINAL_LINE_S = 0.3  # extra time to write the summary line, which blocks if nothing reads stdout
_RESEND_AFTER_S = 0.001

_handled: tuple[signal.Signals, ...] = SIGNALS
_arrived: float | None = None  # when the first signal arrived, on the monotonic clock
_report_forced_exit: Callable[[Terminated], int] | None = None
_deferrals = 0


class Terminated(KeyboardInterrupt):
    """One of `SIGNALS` arrived."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


def raise_on_signals(report_forced_exit: Callable[[Terminated], int]) -> None:
    """Raise `Terminated` in the main thread on the first signal; ignore later signals.

    A signal that the parent process ignores stays ignored, for example SIGHUP under nohup.
    `report_forced_exit` writes the summary line of a run that does not end in time, and returns the exit code.
    """
    global _report_forced_exit, _handled  # noqa: PLW0603  one handler per process
    _report_forced_exit = report_forced_exit
    _handled = tuple(signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN)
    sys.excepthook = _print_unless_signal
    sys.unraisablehook = _resend_swallowed
    _handle(_raise)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by the image's launcher


def ignore_signals_until_reported() -> None:
    """Let further signals only start the forced-exit timer: they must not change the outcome that is being reported."""
    _handle(_ignore_until_reported)


def seconds_left() -> float | None:
    """Return the number of seconds until the forced exit, or None if no signal has arrived."""
    return None if _arrived is None else max(_arrived + FORCED_EXIT_AFTER_S - time.monotonic(), 0)


@contextmanager
def deferred() -> Iterator[None]:
    """Delay signals until the end of the block, so that its steps are not interrupted halfway."""
    global _deferrals  # noqa: PLW0603  signals arrive in the main thread only
    _deferrals += 1
    try:
        yield
    finally:
        _deferrals -= 1


def signal_behind(error: BaseException | None) -> Terminated | None:
    """Return the signal that caused an error, or None.

    Another exception may hide the signal: Python 3.11 wraps `__set_name__` errors in RuntimeError.
    """
    while error:
        if isinstance(error, Terminated):
            return error
        error = error.__cause__ or error.__context__
    return None


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in _handled:
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
    """Return whether `_resend_swallowed` is running; Python prints exceptions raised in that hook and continues."""
    while frame and frame.f_code is not _resend_swallowed.__code__:
        frame = frame.f_back
    return frame is not None


def _resend_swallowed(swallowed: UnraisableHookArgs) -> None:
    """Resend the signal if Python swallowed its exception, for example in a notice handler called by libpq."""
    if isinstance(end := swallowed.exc_value, Terminated):
        _handle(_raise)
        _resend(end.signum)


def _print_unless_signal(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print nothing for a signal: Cython passes swallowed exceptions to this hook, then to `_resend_swallowed`."""
    if not isinstance(error, Terminated):
        sys.__excepthook__(kind, error, traceback)


def _resend(signum: int) -> None:
    threading.Timer(_RESEND_AFTER_S, os.kill, [os.getpid(), signum]).start()


def _ignore_until_reported(signum: int, _frame: FrameType | None) -> None:
    _handle(_ignore)
    _start_forced_exit(Terminated(signum))


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing. With SIG_IGN instead, Python prints a warning when two signals arrive at once."""


def _start_forced_exit(end: Terminated) -> None:
    global _arrived  # noqa: PLW0603  signals arrive in the main thread only
    if _arrived is not None:
        return
    _arrived = time.monotonic()

    def leave() -> None:
        threading.Timer(FINAL_LINE_S, os._exit, [end.exit_code]).start()
        os._exit(_report_forced_exit(end) if _report_forced_exit else end.exit_code)

    timer = threading.Timer(FORCED_EXIT_AFTER_S, leave)
    timer.daemon = True
    timer.start()
