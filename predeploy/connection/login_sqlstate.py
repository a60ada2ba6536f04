"""The SQLSTATE with which a server refused a login, whatever language it speaks.

libpq keeps no SQLSTATE of a failed login, only a text in the server's language. Its protocol trace does hold it, so
the login is tried once more with the trace on. (`PQsetErrorVerbosity` would be shorter, but psycopg does not offer it.)
The trace also holds the password: it lives in anonymous memory, is read once, and goes nowhere else.
"""

from __future__ import annotations

import os
import re
import select
import time
from contextlib import closing
from typing import TYPE_CHECKING

from psycopg import NotSupportedError, OperationalError, pq

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_LOGIN_S = 10.0
_MOST_OF_A_TRACE = 1 << 20
_ERROR = re.compile(
    rb'^B\t\d+\tErrorResponse\t S "[^"]*" (?:V "[^"]*" )?C "([0-9A-Z]{5})" M '
    rb'(?:(?:(?!^B\t).)*? R "(\w+)" \\x00$)?',
    re.MULTILINE | re.DOTALL,
)


def refused_with(parameters: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    """Log in with libpq's parameters and return each refusal's SQLSTATE and the server's function that it came from.

    Return nothing when the login works, when nobody answers within 10 s or the parameters' own `connect_timeout`,
    and where libpq or the system has no trace to offer.
    """
    conninfo = b" ".join(key + b"='" + re.sub(rb"([\\'])", rb"\\\1", value) + b"'" for key, value in parameters.items())
    timeout = parameters.get(b"connect_timeout", b"")
    deadline = time.monotonic() + (int(timeout) if timeout.isdigit() and int(timeout) else _LONGEST_LOGIN_S)
    try:
        with closing(_Trace()) as trace:
            return trace.of_login(conninfo, deadline)
    except (AttributeError, NotSupportedError, OperationalError, OSError):  # no memfd, no PQtrace, no memory
        return []


class _Trace:
    """Anonymous memory that libpq writes to."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("login")

    def close(self) -> None:
        os.close(self._fd)

    def of_login(self, conninfo: bytes, deadline: float) -> list[tuple[str, str]]:
        pgconn = pq.PGconn.connect_start(conninfo)
        try:
            pgconn.trace(self._fd)
            pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
            _poll(pgconn, deadline)
            pgconn.untrace()  # which also writes what it has
        finally:
            pgconn.finish()
        text = os.pread(self._fd, _MOST_OF_A_TRACE, 0)
        return [(code.decode(), function.decode()) for code, function in _ERROR.findall(text)]


def _poll(pgconn: pq.abc.PGconn, deadline: float) -> None:
    while pgconn.status != pq.ConnStatus.BAD and (left := deadline - time.monotonic()) > 0:
        match pgconn.connect_poll():
            case pq.PollingStatus.READING:
                event = select.POLLIN
            case pq.PollingStatus.WRITING:
                event = select.POLLOUT
            case _:
                return
        poll = select.poll()
        poll.register(pgconn.socket, event)
        poll.poll(left * 1000)
