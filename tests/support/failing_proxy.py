"""A proxy that fails permanently at a chosen turn of the conversation."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Literal, Self

from tests.support.proxy import LOOPBACK

Failure = Literal["silent", "cut"]


class FailingProxy:
    """Forwards a port to a server and fails at turn `at`, counted from 1 over all connections and both sides.

    A turn is what one side sends until the other side answers; the turn at which the proxy fails is not delivered.
    `silent`: data is still accepted and acknowledged, but not answered. `cut`: old and new connections break.
    """

    def __init__(self, port: int, at: int, failure: Failure) -> None:
        self.failed = threading.Event()
        self.failed_at = 0.0
        self.turns = 0
        self._target = port
        self._at = at
        self._failure = failure
        self._speaker: socket.socket | None = None
        self._peers: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        for end in (self._listener, *self._peers):
            end.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(0.05):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._listener:
                    self._accept()
                elif end in self._peers and not self.failed.is_set():  # both ends may close at the same time
                    self._pass_on(end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.failed.is_set():
            client.close()
            return
        server = socket.create_connection((LOOPBACK, self._target))
        for end, peer in ((client, server), (server, client)):
            self._peers[end] = peer
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        peer = self._peers[end]
        data = b""
        with suppress(OSError):
            data = end.recv(1 << 20)
        if not data:
            self._hang_up(end, peer)
            return
        if end is not self._speaker:
            self._speaker = end
            self.turns += 1
        if self.turns == self._at:
            self._fail()
            return
        with suppress(OSError):
            peer.sendall(data)

    def _fail(self) -> None:
        self.failed_at = time.monotonic()
        self.failed.set()
        if self._failure == "cut":
            self._hang_up(*self._peers)
        else:  # the kernel still accepts connections and acknowledges data
            for end in (self._listener, *self._peers):
                self._selector.unregister(end)

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            del self._peers[end]
            self._selector.unregister(end)
            end.close()
