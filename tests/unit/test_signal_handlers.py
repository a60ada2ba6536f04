"""The effect of a signal on a small process; tests/integration/test_signals.py tests the whole program."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from predeploy.signals import FINAL_LINE_S, FORCED_EXIT_AFTER_S, SIGNALS, Terminated, signal_behind

ROOT = Path(__file__).parents[2]
BUSY_S = 5.0
BEGIN = """
import os, signal, sys, time
from predeploy.signals import Terminated, deferred, ignore_signals_until_reported, raise_on_signals

def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)
    time.sleep(0.02)

def report_forced_exit(end):
    print("forced", end, flush=True)
    return 99

raise_on_signals(report_forced_exit)
"""


def run(source: str, first: str = "") -> tuple[int, list[str]]:
    """Return the exit code of a process and the lines that it printed; `first` runs before it handles signals."""
    command = [sys.executable, "-c", first + BEGIN + source]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_in_a_deferred_block_is_raised_after_it(signum: signal.Signals) -> None:
    source = f"""
try:
    with deferred():
        with deferred():
            send({int(signum)})
            print("inner", flush=True)
        time.sleep(0.02)
        print("outer", flush=True)
    time.sleep(10)
    print("never")
except Terminated as end:
    print("raised", end, flush=True)
    sys.exit(end.exit_code)
"""
    assert run(source) == (128 + signum, ["inner", "outer", f"raised {signum.name}"])


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(signum: signal.Signals) -> None:
    ignore = f"import signal\nsignal.signal({int(signum)}, signal.SIG_IGN)\n"
    other = signal.SIGINT if signum == signal.SIGTERM else signal.SIGTERM
    source = f"""
try:
    send({int(signum)})
    print("ignored", flush=True)
    send({int(other)})
except Terminated as end:
    print("raised", end, flush=True)
"""
    assert run(source, first=ignore) == (0, ["ignored", f"raised {other.name}"])


def test_the_time_until_the_forced_exit_is_known_after_a_signal() -> None:
    source = """
from predeploy.signals import FORCED_EXIT_AFTER_S, seconds_left
print(seconds_left(), flush=True)
try:
    send()
except Terminated:
    print(0 < seconds_left() < FORCED_EXIT_AFTER_S, flush=True)
"""
    assert run(source) == (0, ["None", "True"])


def test_a_deferred_block_without_a_signal_raises_nothing() -> None:
    assert run('with deferred():\n    pass\nprint("done")') == (0, ["done"])


def test_only_the_first_signal_is_raised() -> None:
    source = """
try:
    send()
except Terminated as end:
    send()
    send(signal.SIGINT)
    print("cleaned up after", end, flush=True)
"""
    assert run(source) == (0, ["cleaned up after SIGTERM"])


def test_a_signal_does_not_interrupt_the_report() -> None:
    source = 'ignore_signals_until_reported()\nsend()\nsend(signal.SIGINT)\nprint("reported", flush=True)'
    assert run(source) == (0, ["reported"])


@pytest.mark.parametrize(
    "source",
    ["with deferred():\n    send()\n    time.sleep(60)", "ignore_signals_until_reported()\nsend()\ntime.sleep(60)"],
    ids=["deferred", "while it reports"],
)
def test_a_process_that_does_not_end_after_a_signal_is_forced_to_exit(source: str) -> None:
    started = time.monotonic()
    assert run(source) == (99, ["forced SIGTERM"])
    assert FORCED_EXIT_AFTER_S < time.monotonic() - started < FORCED_EXIT_AFTER_S + BUSY_S


def test_a_forced_exit_happens_even_if_the_report_blocks() -> None:
    source = "raise_on_signals(lambda end: time.sleep(60))\nwith deferred():\n    send()\n    time.sleep(60)"
    started = time.monotonic()
    assert run(source) == (143, [])
    assert FORCED_EXIT_AFTER_S + FINAL_LINE_S < time.monotonic() - started < FORCED_EXIT_AFTER_S + BUSY_S


def test_the_signal_is_found_in_the_chain_of_the_error_that_replaced_it() -> None:
    end = Terminated(signal.SIGTERM)
    caused, during = RuntimeError(), RuntimeError()
    caused.__cause__ = end
    during.__context__ = caused
    assert signal_behind(during) is signal_behind(caused) is signal_behind(end) is end
    assert signal_behind(RuntimeError()) is None
    assert (end.exit_code, str(end)) == (143, "SIGTERM")
