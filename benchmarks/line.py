"""A line to the server on which everything arrives later: a TCP proxy on loopback, in a process of its own.

What one side sends reaches the other `delay` seconds later, in order and however much it is, as on a long and wide
line. Connecting itself is not delayed. `python -m benchmarks.line PORT DELAY_S` prints the port that it listens on;
at the end of its input it prints how many round trips there were, over all connections, and ends.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Self

PIECE = 1 << 18
RETRY_S = 0.0005  # for a receiver who takes nothing more at the moment
LOOPBACK = "127.0.0.1"


class Line:
    """The proxy's process. `port` leads to the server's; `round_trips` is known once it is closed."""

    def __init__(self, port: int, round_trip_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.line", str(port), str(round_trip_s / 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdout  # noqa: S101  for the type checker: it is a pipe
        self.port = int(self._process.stdout.readline())
        self.round_trips = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.round_trips = int(self._process.communicate(timeout=10)[0])


class Direction:
    """One way of a connection: what is under way, and when each piece arrives."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.ended = False

    @property
    def due(self) -> float:
        """When the next piece arrives; never, when nothing is under way."""
        return self.pieces[0][0] if self.pieces else float("inf")

    def deliver(self, now: float) -> None:
        """Hand over what has arrived, as far as the receiver takes it."""
        while self.due <= now:
            _, piece = self.pieces[0]
            if not piece:
                self.pieces.popleft()
                with suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                continue
            try:
                sent = self.sink.send(piece)
            except BlockingIOError:
                self.pieces[0] = (now + RETRY_S, piece)
                return
            except OSError:
                self.pieces.clear()
                return
            if sent < len(piece):
                self.pieces[0] = (now, piece[sent:])
            else:
                self.pieces.popleft()


class Proxy:
    """Passes on what clients and the server say, `delay` seconds later."""

    def __init__(self, port: int, delay: float) -> None:
        self._target = port
        self._delay = delay
        # select() waits for microseconds, where epoll rounds up to milliseconds.
        self._selector = selectors.SelectSelector()
        self._directions: dict[socket.socket, Direction] = {}
        self._asked: dict[socket.socket, bool] = {}  # whether the client spoke last
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0

    def run(self) -> None:
        """Serve until the standard input ends."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            pause = min((way.due for way in self._directions.values()), default=float("inf")) - time.monotonic()
            for key, _ in self._selector.select(max(pause, 0.0) if pause < 1 else 1):
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(self._directions[key.fileobj])
            now = time.monotonic()
            for way in self._directions.values():
                way.deliver(now)
            self._forget()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection((LOOPBACK, self._target))
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source.settimeout(0)
            self._directions[source] = Direction(source, sink)
            self._selector.register(source, selectors.EVENT_READ, data=source is client)
        self._asked[client] = self._asked[server] = False

    def _read(self, way: Direction) -> None:
        data = b""
        with suppress(OSError):
            data = way.source.recv(PIECE)
        way.pieces.append((time.monotonic() + self._delay, data))
        if not data:
            way.ended = True
            self._selector.unregister(way.source)
            return
        is_client = bool(self._selector.get_key(way.source).data)
        if self._asked[way.source] and not is_client:
            self.round_trips += 1
        self._asked[way.source] = self._asked[way.sink] = is_client

    def _forget(self) -> None:
        """Close the connections on which both sides have ended and everything has arrived."""
        for way in list(self._directions.values()):
            back = self._directions.get(way.sink)
            if back and way.ended and back.ended and not way.pieces and not back.pieces:
                for end in (way.source, way.sink):
                    del self._directions[end], self._asked[end]
                    end.close()


if __name__ == "__main__":
    proxy = Proxy(int(sys.argv[1]), float(sys.argv[2]))
    print(proxy.port, flush=True)
    proxy.run()
    print(proxy.round_trips, flush=True)
