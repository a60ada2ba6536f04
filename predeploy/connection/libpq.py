"""libpq by itself, through ctypes: the few functions that a run needs which finds nothing to do.

To import psycopg takes longer than all that such a run does otherwise. The library is the one that psycopg's wheel
brings along and loads itself when it is imported, so that TLS, Kerberos, services and passfiles are the same. Its
error texts may quote the connection string: none is ever read.
"""

from __future__ import annotations

import os
import select
import time
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_void_p
from functools import cache
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Option = tuple[str, bytes | None, bool]  # keyword, value, and whether libpq says not to show it

_BAD = 1  # of a connection's status
_READING, _WRITING, _OK = 1, 2, 3  # of a poll during the login
_EVENTS = {_READING: select.POLLIN, _WRITING: select.POLLOUT}
_COMMAND_OK, _TUPLES_OK = 1, 2  # of a result
_SQLSTATE = ord("C")  # of an error's fields


class NoAnswer(Exception):
    """Nobody answered in time, or not what was asked for; why is for those to find out who can tell it."""


class OtherAnswer(NoAnswer):
    """There was an answer, read to its end, but an error, a notice or no row: the session may be asked again."""

    def __init__(self, sqlstate: bytes) -> None:
        super().__init__()
        self.sqlstate = sqlstate  # of the last error; empty for none


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
    "PQbackendPID": (c_int, [c_void_p]),
    "PQparameterStatus": (c_char_p, [c_void_p, c_char_p]),
    "PQsendQuery": (c_int, [c_void_p, c_char_p]),
    "PQconsumeInput": (c_int, [c_void_p]),
    "PQisBusy": (c_int, [c_void_p]),
    "PQgetResult": (c_void_p, [c_void_p]),
    "PQresultStatus": (c_int, [c_void_p]),
    "PQresultErrorField": (c_char_p, [c_void_p, c_int]),
    "PQntuples": (c_int, [c_void_p]),
    "PQnfields": (c_int, [c_void_p]),
    "PQgetvalue": (c_char_p, [c_void_p, c_int, c_int]),
    "PQclear": (None, [c_void_p]),
    "PQfinish": (None, [c_void_p]),
}


@cache
def load() -> Libpq | None:
    """Return the library; None where psycopg uses another one, and where it cannot be found, loaded or used."""
    try:
        return Libpq(_bundled())
    except (OSError, AttributeError, ValueError):
        return None


def _bundled() -> str:
    """Return the path of the library in psycopg's wheel, without importing psycopg; raise ValueError for none."""
    if PathFinder.find_spec("psycopg_c"):
        raise ValueError("psycopg prefers the one that it was built for")
    spec = PathFinder.find_spec("psycopg_binary")
    (package,) = (spec and spec.submodule_search_locations) or [""]
    folder = f"{os.path.dirname(package)}/psycopg_binary.libs"
    (library,) = (name for name in os.listdir(folder) if name.startswith(("libpq-", "libpq.")))
    return f"{folder}/{library}"


class Libpq:
    """What libpq knows about connection strings."""

    def __init__(self, path: str) -> None:
        """Load it; raise OSError for what is no library and AttributeError for one that lacks a function."""
        library = CDLL(path)
        self.functions: dict[str, Any] = {}
        for name, (result, arguments) in _RETURNS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            self.functions[name] = function

    def parse(self, conninfo: bytes) -> list[Option] | None:
        """Return every option, with its value where the connection string names it; None for a malformed one."""
        call, error = self.functions, c_void_p()
        found = _options(call, call["PQconninfoParse"](conninfo, byref(error)))
        call["PQfreemem"](error)
        return found

    def defaults(self) -> list[Option]:
        """Return every option with what the environment, and a service that it names, say; or libpq itself."""
        return _options(self.functions, self.functions["PQconndefaults"]()) or []

    def resolve(self, conninfo: bytes) -> tuple[list[Option], bytes] | None:
        """Return all options that a login would use, and the password; as far as it goes without a login."""
        call = self.functions
        conn = call["PQconnectStart"](conninfo)
        try:
            found = _options(call, call["PQconninfo"](conn))
            return None if found is None else (found, call["PQpass"](conn) or b"")
        finally:
            call["PQfinish"](conn)


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
    """A login, and what is asked then: all of it comes until the `deadline`, by the monotonic clock, or `NoAnswer`.

    Only the resolution of a host's name may take longer. A notice is no answer: it has to be told, and by whom can.
    """

    def __init__(self, library: Libpq, conninfo: bytes, deadline: float) -> None:
        self._call = library.functions
        self._deadline = deadline
        self._noticed = 0
        self._receiver = _Receiver(self._notice)  # libpq's own would write to stderr
        self._conn = self._call["PQconnectStart"](conninfo)
        self._call["PQsetNoticeReceiver"](self._conn, self._receiver, None)

        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session, which ends its transaction; nothing once it is closed."""
        conn, self._conn = self._conn, None
        if conn:
            self._call["PQfinish"](conn)

    def _notice(self, _argument: int, _notice: int) -> None:
        self._noticed += 1

    def _log_in(self) -> None:
        turn = _WRITING
        while turn != _OK:
            if turn not in _EVENTS or self._call["PQstatus"](self._conn) == _BAD:
                raise NoAnswer
            self._wait(turn)
            turn = self._call["PQconnectPoll"](self._conn)

    def _wait(self, turn: int) -> None:
        poll = select.poll()
        poll.register(self._call["PQsocket"](self._conn), _EVENTS[turn])
        if not poll.poll(max(self._deadline - time.monotonic(), 0) * 1000):
            raise NoAnswer

    @property
    def backend(self) -> int:
        """The process id that was told at the login."""
        pid: int = self._call["PQbackendPID"](self._conn)
        return pid

    def parameter(self, name: bytes) -> str | None:
        """Return what the server has reported of a setting, if it has."""
        value: bytes | None = self._call["PQparameterStatus"](self._conn, name)
        return None if value is None else value.decode(errors="replace")

    def ask(self, message: bytes) -> list[bytes]:
        """Send statements in one message; return the only row of the last that has one, NULL as an empty text.

        The answer is read to its end, whatever it is: who hangs up in the midst of it is in the server's log.
        """
        call, row, sqlstate, noticed = self._call, None, None, self._noticed
        if not call["PQsendQuery"](self._conn, message):
            raise NoAnswer
        for result in self._results():
            status = call["PQresultStatus"](result)
            if status == _TUPLES_OK and call["PQntuples"](result) == 1:
                row = [call["PQgetvalue"](result, 0, field) for field in range(call["PQnfields"](result))]
            elif status != _COMMAND_OK:
                sqlstate = call["PQresultErrorField"](result, _SQLSTATE) or b""
        if row is None or sqlstate is not None or self._noticed > noticed:
            raise OtherAnswer(sqlstate or b"")
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
