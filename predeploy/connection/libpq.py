"""Call libpq through ctypes to parse connection strings, and to log in for the fast path.

Importing psycopg would take longer than the rest of a fast-path run. This module loads the libpq in psycopg's wheel,
which psycopg itself uses, so TLS, Kerberos, services and passfiles behave the same.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_void_p
from functools import cache
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.pq import ConninfoOption

Option = tuple[str, bytes | None, bool]  # keyword, value, and whether libpq marks it as secret

_BAD = 1  # PQstatus
_READING, _WRITING, _OK = 1, 2, 3  # PQconnectPoll
_EVENTS = {_READING: select.POLLIN, _WRITING: select.POLLOUT}
_COMMAND_OK, _TUPLES_OK = 1, 2  # PQresultStatus
_VERBOSITIES = {"default": 1, "verbose": 2}  # PQsetErrorVerbosity


class NoAnswer(Exception):
    """The server did not respond in time, or sent an unexpected response."""


class LoginFailed(NoAnswer):
    """The login failed. The message is libpq's, including the SQLSTATE; it may quote the connection string."""


class _Option(Structure):
    _fields_ = (
        *((name, c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", c_int),
    )


_Receiver = CFUNCTYPE(None, c_void_p, c_void_p)
_RETURNS: dict[str, tuple[Any, list[Any]]] = {
    "PQconndefaults": (POINTER(_Option), []),
    "PQconninfoParse": (POINTER(_Option), [c_char_p, c_void_p]),
    "PQconninfo": (POINTER(_Option), [c_void_p]),
    "PQconninfoFree": (None, [POINTER(_Option)]),
    "PQfreemem": (None, [c_void_p]),
    "PQconnectStart": (c_void_p, [c_char_p]),
    "PQsetNoticeReceiver": (c_void_p, [c_void_p, _Receiver, c_void_p]),
    "PQconnectPoll": (c_int, [c_void_p]),
    "PQstatus": (c_int, [c_void_p]),
    "PQsocket": (c_int, [c_void_p]),
    "PQpass": (c_char_p, [c_void_p]),
    "PQerrorMessage": (c_char_p, [c_void_p]),
    "PQsetErrorVerbosity": (c_int, [c_void_p, c_int]),
    "PQparameterStatus": (c_char_p, [c_void_p, c_char_p]),
    "PQsendQuery": (c_int, [c_void_p, c_char_p]),
    "PQconsumeInput": (c_int, [c_void_p]),
    "PQisBusy": (c_int, [c_void_p]),
    "PQgetResult": (c_void_p, [c_void_p]),
    "PQresultStatus": (c_int, [c_void_p]),
    "PQntuples": (c_int, [c_void_p]),
    "PQnfields": (c_int, [c_void_p]),
    "PQgetvalue": (c_char_p, [c_void_p, c_int, c_int]),
    "PQclear": (None, [c_void_p]),
    "PQfinish": (None, [c_void_p]),
}


class ConninfoReader(Protocol):
    """Parses connection strings the way libpq does."""

    def parse(self, conninfo: bytes) -> list[Option] | None:
        """Return every option, with the value set in the connection string; return None if the string is malformed."""
        ...

    def defaults(self) -> list[Option]:
        """Return every option with its default from the environment, from the service in PGSERVICE, or from libpq."""
        ...

    def resolve(self, conninfo: bytes) -> tuple[list[Option], bytes] | None:
        """Return the options and the password that a login would use, or None if they cannot be determined.

        libpq reports them only after a failed login, so pass a `conninfo` with which the login cannot succeed.
        """
        ...


@cache
def load() -> Libpq | None:
    """Return the bundled library, or None if psycopg uses another libpq or the library cannot be found or loaded."""
    try:
        return Libpq(_bundled())
    except (OSError, AttributeError, ValueError):
        return None


def conninfo() -> ConninfoReader:
    """Return a reader that calls libpq directly, or through psycopg if the library cannot be loaded."""
    return load() or _ByPsycopg()


def _bundled() -> str:
    """Return the path of the libpq in psycopg's wheel without importing psycopg; raise ValueError if not found."""
    if PathFinder.find_spec("psycopg_c"):
        raise ValueError("psycopg_c uses the libpq that it was built with")
    spec = PathFinder.find_spec("psycopg_binary")
    (package,) = (spec and spec.submodule_search_locations) or [""]
    folder = f"{os.path.dirname(package)}/psycopg_binary.libs"
    (library,) = (name for name in os.listdir(folder) if name.startswith(("libpq-", "libpq.")))
    return f"{folder}/{library}"


class Libpq:
    """Calls the functions of a libpq library."""

    def __init__(self, path: str) -> None:
        """Load the library; raise OSError if it cannot be loaded, or AttributeError if it lacks a function."""
        library = CDLL(path)
        self.functions: dict[str, Any] = {}
        for name, (result, arguments) in _RETURNS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            self.functions[name] = function

    def parse(self, conninfo: bytes) -> list[Option] | None:
        """See `ConninfoReader`."""
        call, error = self.functions, c_void_p()
        found = _options(call, call["PQconninfoParse"](conninfo, byref(error)))
        call["PQfreemem"](error)
        return found

    def defaults(self) -> list[Option]:
        """See `ConninfoReader`."""
        return _options(self.functions, self.functions["PQconndefaults"]()) or []

    def resolve(self, conninfo: bytes) -> tuple[list[Option], bytes] | None:
        """See `ConninfoReader`."""
        call = self.functions
        conn = call["PQconnectStart"](conninfo)
        try:
            found = _options(call, call["PQconninfo"](conn))
            return None if found is None else (found, call["PQpass"](conn) or b"")
        finally:
            call["PQfinish"](conn)

    def set_verbosity(self, conn: int | None, verbosity: str) -> None:
        """Set the error verbosity of a `PGconn *` to `default`, or to `verbose`, which includes the SQLSTATE."""
        self.functions["PQsetErrorVerbosity"](conn, _VERBOSITIES[verbosity])


class _ByPsycopg:
    """Implements `ConninfoReader` with psycopg and its libpq."""

    def parse(self, conninfo: bytes) -> list[Option] | None:
        from psycopg import OperationalError, pq

        with suppress(OperationalError):
            return self._options(pq.Conninfo.parse(conninfo))
        return None

    def defaults(self) -> list[Option]:
        from psycopg import pq

        return self._options(pq.Conninfo.get_defaults())

    def resolve(self, conninfo: bytes) -> tuple[list[Option], bytes] | None:
        from psycopg import OperationalError, pq

        with suppress(OperationalError):
            conn = pq.PGconn.connect_start(conninfo)
            try:
                return self._options(conn.info), conn.password
            finally:
                conn.finish()
        return None

    def _options(self, found: list[ConninfoOption]) -> list[Option]:
        return [(option.keyword.decode(), option.val, option.dispchar == b"*") for option in found]


def _options(call: dict[str, Any], array: Any) -> list[Option] | None:
    if not array:
        return None
    found = []
    for option in array:
        if option.keyword is None:
            break
        found.append((option.keyword.decode(), option.val, option.dispchar == b"*"))
    call["PQconninfoFree"](array)
    return found


class Session:
    """A connection that raises `NoAnswer` once its `deadline`, a time on the monotonic clock, has passed.

    Only host name resolution may exceed the deadline. A query that causes a notice also raises `NoAnswer`, because this
    class cannot log notices.
    """

    def __init__(self, library: Libpq, conninfo: bytes, deadline: float) -> None:
        """Log in; raise `LoginFailed` if the server or libpq rejects it."""
        self._call = library.functions
        self._deadline = deadline
        self._notices = 0
        self._receiver = _Receiver(self._count_notice)  # libpq's default receiver writes to stderr
        self._conn = self._call["PQconnectStart"](conninfo)
        library.set_verbosity(self._conn, "verbose")
        self._call["PQsetNoticeReceiver"](self._conn, self._receiver, None)
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session."""
        conn, self._conn = self._conn, None
        if conn:
            self._call["PQfinish"](conn)

    def _count_notice(self, _argument: int, _notice: int) -> None:
        self._notices += 1

    def _log_in(self) -> None:
        state = _WRITING
        while state != _OK:
            if state not in _EVENTS or self._call["PQstatus"](self._conn) == _BAD:
                raise LoginFailed((self._call["PQerrorMessage"](self._conn) or b"").decode(errors="replace"))
            self._wait(state)
            state = self._call["PQconnectPoll"](self._conn)

    def _wait(self, state: int) -> None:
        poll = select.poll()
        poll.register(self._call["PQsocket"](self._conn), _EVENTS[state])
        if not poll.poll(max(self._deadline - time.monotonic(), 0) * 1000):
            raise NoAnswer

    def parameter(self, name: bytes) -> str | None:
        """Return the value of a setting, or None if the server did not report the setting at login."""
        value: bytes | None = self._call["PQparameterStatus"](self._conn, name)
        return None if value is None else value.decode(errors="replace")

    def ask(self, message: bytes) -> list[bytes]:
        """Send statements in one message and return the row of the last single-row result, with NULL as empty bytes.

        Raise `NoAnswer` on an error, on a notice, or if there is no such row. Read all results, because the server logs
        a line if a client disconnects before it has read them.
        """
        call, row, failed = self._call, None, False
        if not call["PQsendQuery"](self._conn, message):
            raise NoAnswer
        for result in self._results():
            status = call["PQresultStatus"](result)
            if status == _TUPLES_OK and call["PQntuples"](result) == 1:
                row = [call["PQgetvalue"](result, 0, field) for field in range(call["PQnfields"](result))]
            failed = failed or status not in {_COMMAND_OK, _TUPLES_OK}
        if row is None or failed or self._notices:
            raise NoAnswer
        return row

    def _results(self) -> Iterator[int]:
        call = self._call
        while True:
            while call["PQisBusy"](self._conn):
                self._wait(_READING)
                if not call["PQconsumeInput"](self._conn):
                    raise NoAnswer
            if not (result := call["PQgetResult"](self._conn)):
                return
            try:
                yield result
            finally:
                call["PQclear"](result)
