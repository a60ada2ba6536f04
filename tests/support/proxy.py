"""A proxy that causes network and login problems, with real sockets on loopback and real protocol messages."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
COMMIT_COMPLETE = b"C\x00\x00\x00\x0bCOMMIT\x00"
_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104


class Proxy:
    """Forwards a port to a server and can refuse logins and cut connections.

    `refusals`: SQLSTATE and text with which the proxy itself answers the next logins.
    `cut_before`: bytes that, when the server sends them, close both ends before the client sees them, once per entry.
    `silent_after`: bytes that, when the client sends them, stop all traffic between both ends.
    `hide`: names of parameters that the server reports at login, changed so that the client does not recognise them.
    `logins`: how many clients have connected so far.
    """

    def __init__(self, port: int) -> None:
        self.refusals: list[tuple[str, str]] = []
        self.cut_before: list[bytes] = []
        self.silent_after: bytes | None = None
        self.hide: list[bytes] = []
        self.logins = 0
        self._target = port
        self._silence = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._in_thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and refuse new ones."""
        self._silence.set()
        for end in self._open:
            _hang_up(end)

    def _in_thread(self, work: object, *args: object) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                self._in_thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            start = _startup_message(client)
            if not start.startswith(struct.pack("!I", _CANCEL)):
                self.logins += 1
                if self.refusals:
                    client.sendall(_error_response(*self.refusals.pop(0)))
                    client.close()
                    return
            server = socket.create_connection((LOOPBACK, self._target))
            self._open.append(server)
            server.sendall(struct.pack("!I", len(start) + 4) + start)
            self._in_thread(self._copy, client, server)
            self._copy(server, client)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.cut_before and self.cut_before[0] in data:
                    self.cut_before.pop(0)
                    break
                for name in self.hide:
                    data = data.replace(name, name.upper())
                if self.silent_after and self.silent_after in data:
                    self._silence.wait()
                sink.sendall(data)
        _hang_up(source)
        _hang_up(sink)


@contextmanager
def silent_port(*, full: bool = False) -> Iterator[int]:
    """A port that accepts every connection and never answers; with `full`, it does not even accept."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0 if full else 100))
        port: int = listener.getsockname()[1]
        for _ in range(4 if full else 0):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((LOOPBACK, port))
        yield port


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _startup_message(client: socket.socket) -> bytes:
    """Decline encryption until the client sends its request in plain text; return it without its length."""
    while True:
        (length,) = struct.unpack("!I", _exactly(client, 4))
        body = _exactly(client, length - 4)
        if struct.unpack("!I", body[:4])[0] not in {_SSL, _GSS}:
            return body
        client.sendall(b"N")


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _error_response(sqlstate: str, text: str) -> bytes:
    values = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
    fields = b"".join(f"{key}{value}\0".encode() for key, value in values.items())
    return b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
