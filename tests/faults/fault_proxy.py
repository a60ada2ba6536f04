"""A proxy that reads Postgres protocol messages, numbers them over a whole run, and injects faults at chosen ones.

Everything happens in one thread, so a fault is complete before any other byte is forwarded.
"""

from __future__ import annotations

import asyncio
import enum
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from tests.support.proxy import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_UNTYPED = {_CANCEL: "cancel", _SSL: "ssl", _GSS: "gss"}  # any other message without a type is a start-up message


class Action(enum.Enum):
    """What happens to the message at which a fault is due, and to its connection."""

    FORWARD = "forward"
    CUT_BEFORE = "both ends are hung up, the message is lost"
    CUT_AFTER = "the message is handed on, then both ends are hung up"
    CUT_CLIENT = "the client is hung up; the server finds out when it has done what it was asked to"
    CUT_LINE = "the message is lost, and every connection is hung up"
    FREEZE = "from now on no connection of this proxy carries anything, and none is hung up"


@dataclass(frozen=True, slots=True)
class Message:
    """One protocol message; `number` counts from 1 over all connections of a run, `kind` is its type byte or name."""

    number: int
    sender: str  # "client" or "server"
    kind: str


def logged_in(messages: Sequence[Message]) -> int:
    """Return the number of the message that completes the login of a run with pending migrations, or the last number.

    Before this login, the fast path has logged in on a connection of its own.
    """
    starts = [message.number for message in messages if message.kind == "startup"]
    own = starts[1] if len(starts) > 1 else len(messages)
    ready = (message.number for message in messages if message.kind == "Z" and message.number > own)
    return next(ready, len(messages))


class FaultProxy:
    """Forwards a port to a server; with `tls`, encrypts the client's side.

    `others` are the ports of further servers. The proxy listens on one port per server, and numbers the messages to all
    servers together. `targets` are the servers' ports and `ports` are the proxy's, in the same order; a test may change
    a target.

    `begin` starts a run: message numbers start at 1 again, and each of the `faults` is called at its message number.
    `messages` are the run's messages so far, `backends` the process ids of its sessions on the server, and `problems`
    the errors in the proxy itself, which the program has not caused.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, *others: int) -> None:
        self.targets = [port, *others]
        self.ports: list[int] = []
        self.tls = tls
        self.messages: list[Message] = []
        self.problems: list[BaseException] = []
        self.faults: Mapping[int, Callable[[Message], Action]] = {}
        self.backends: set[int] = set()
        self.frozen = False
        self.links: set[_Link] = set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self.loop.set_exception_handler(lambda _loop, context: self.problems.append(_problem(context)))
        self._thread.start()

        async def listen(index: int) -> asyncio.Server:
            return await self.loop.create_server(lambda: _Client(_Link(self, index)), LOOPBACK, 0)

        self._listeners = [
            asyncio.run_coroutine_threadsafe(listen(index), self.loop).result() for index in range(len(self.targets))
        ]
        self.ports = [listener.sockets[0].getsockname()[1] for listener in self._listeners]
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            self._in_loop(listener.close)
        self._in_loop(self.hang_up)
        self._in_loop(lambda: [task.cancel() for task in asyncio.all_tasks(self.loop) - {asyncio.current_task()}])
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @property
    def port(self) -> int:
        """The proxy's port for the first server."""
        return self.ports[0]

    def refuse(self, index: int) -> None:
        """Refuse all further connections to a server; call this in the proxy's thread."""
        self._listeners[index].close()

    def begin(self, faults: Mapping[int, Callable[[Message], Action]] | None = None) -> None:
        """Close the connections of the previous run, and start counting."""

        def reset() -> None:
            self.hang_up()
            self.messages, self.problems, self.faults = [], [], faults or {}
            self.backends, self.frozen = set(), False

        self._in_loop(reset)

    def end(self) -> list[Message]:
        """Close every connection and return the run's messages."""
        self._in_loop(self.hang_up)
        return self.messages

    def pass_on(self, sender: str, kind: str) -> Action:
        """Count a message and return what to do with it."""
        message = Message(len(self.messages) + 1, sender, kind)
        self.messages.append(message)
        fault = self.faults.get(message.number)
        if fault is None:
            return Action.FORWARD
        try:
            return fault(message)
        except Exception as problem:  # the trial reports it, so that it is not blamed on the program
            self.problems.append(problem)
            return Action.FORWARD

    def hang_up(self) -> None:
        """Close every connection; call this in the proxy's thread."""
        for link in list(self.links):
            link.cut()

    def _in_loop(self, call: Callable[[], T]) -> T:
        async def work() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(timeout=60)


class _Link:
    """A client's connection and the corresponding connection to the server."""

    def __init__(self, proxy: FaultProxy, target: int = 0) -> None:
        self.proxy = proxy
        self.target = target  # the index of its server
        self.client: asyncio.Transport | None = None
        self.server: asyncio.Transport | None = None
        self.server_protocol: _Server | None = None
        self.busy = False  # the server has a query that it has not answered
        self.orphaned = False
        proxy.links.add(self)

    def cut(self) -> None:
        """Close both ends after sending the data that was already forwarded."""
        self.proxy.links.discard(self)
        for end in (self.client, self.server):
            if end is None:
                continue
            if end.get_write_buffer_size():
                end.close()
            else:
                end.abort()

    def orphan(self) -> None:
        """Close the client's end; the server finishes its current work first."""
        self.orphaned = True
        if self.client:
            self.client.abort()
        if self.busy and self.server_protocol:
            self.server_protocol.look_for_the_end()
        else:
            self.cut()


class _End(asyncio.Protocol):
    """One end of a link: splits bytes into messages and forwards them to the other end."""

    sender = ""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.proxy = link.proxy
        self.received = bytearray()
        self.waiting = False  # for TLS or for the server; until then, nothing is parsed

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.work()

    def work(self) -> None:
        """Split the received bytes and forward, in as few writes as possible, the messages that no fault holds back."""
        outgoing = bytearray()
        while not self.waiting and not self.proxy.frozen and (message := self.next_message()) is not None:
            kind = self.kind_of(message)
            action = self.proxy.pass_on(self.sender, kind)
            if action is Action.FREEZE:
                self.proxy.frozen = True
                break
            if action not in {Action.CUT_BEFORE, Action.CUT_LINE}:
                outgoing += self.take(kind, message)
            if action is Action.FORWARD:
                continue
            self.send(outgoing)
            if action is Action.CUT_CLIENT:
                self.link.orphan()
            elif action is Action.CUT_LINE:
                self.proxy.hang_up()
            else:
                self.link.cut()
            return
        self.send(outgoing)

    def next_message(self) -> bytes | None:
        head = 1 if self.typed else 0
        if len(self.received) < head + 4:
            return None
        (length,) = struct.unpack_from("!I", self.received, head)
        if len(self.received) < head + length:
            return None
        message = bytes(self.received[: head + length])
        del self.received[: head + length]
        return message

    @property
    def typed(self) -> bool:
        return True

    def kind_of(self, message: bytes) -> str:
        return chr(message[0])

    def take(self, kind: str, message: bytes) -> bytes:  # noqa: ARG002
        return message

    def send(self, data: bytes | bytearray) -> None:
        raise NotImplementedError


class _Client(_End):
    sender = "client"

    def __init__(self, link: _Link) -> None:
        super().__init__(link)
        self.started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.link.client = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.link.server and not self.link.orphaned and not self.proxy.frozen:
            self.link.server.close()
        if self.link.server is None:
            self.proxy.links.discard(self.link)

    @property
    def typed(self) -> bool:
        return self.started

    def kind_of(self, message: bytes) -> str:
        if self.started:
            return chr(message[0])
        return _UNTYPED.get(struct.unpack_from("!I", message, 4)[0], "startup")

    def take(self, kind: str, message: bytes) -> bytes:
        if self.started:
            self.link.busy = self.link.busy or kind == "Q"
        elif kind in {"ssl", "gss"}:
            self._answer(kind)
            return b""
        else:
            self.started = self.waiting = True
            self.proxy.loop.create_task(self._connect(message))
            return b""
        return message

    def send(self, data: bytes | bytearray) -> None:
        if data and self.link.server and not self.link.server.is_closing():
            self.link.server.write(bytes(data))

    def _answer(self, kind: str) -> None:
        """Accept encryption if possible, without asking the server."""
        client = self.link.client
        assert client
        if kind == "gss" or self.proxy.tls is None:
            client.write(b"N")
            return
        self.waiting = True
        client.pause_reading()
        client.write(b"S")
        self.proxy.loop.create_task(self._encrypt(client, self.proxy.tls))

    async def _encrypt(self, client: asyncio.Transport, tls: ssl.SSLContext) -> None:
        if self.link not in self.proxy.links:
            return
        try:
            encrypted = await self.proxy.loop.start_tls(client, self, tls, server_side=True)
        except OSError:  # the client closed the connection during the handshake
            self.link.cut()
            return
        if encrypted is None:
            return
        self.link.client = encrypted
        self.waiting = False
        self.work()

    async def _connect(self, first: bytes) -> None:
        try:
            transport, _ = await self.proxy.loop.create_connection(
                lambda: _Server(self.link), LOOPBACK, self.proxy.targets[self.link.target]
            )
        except OSError:
            self.link.cut()
            return
        self.link.server = transport
        transport.write(first)
        if self.link not in self.proxy.links:  # cut in the meantime, after its message
            transport.close()
            return
        self.waiting = False
        self.work()


class _Server(_End):
    sender = "server"

    def __init__(self, link: _Link) -> None:
        super().__init__(link)
        link.server_protocol = self

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.proxy.frozen:
            self.proxy.links.discard(self.link)
            if self.link.client:
                self.link.client.close()

    def data_received(self, data: bytes) -> None:
        if not self.link.orphaned:
            super().data_received(data)
            return
        self.received += data
        self.look_for_the_end()

    def look_for_the_end(self) -> None:
        """Close an orphaned server connection when the server has finished its work."""
        while (message := self.next_message()) is not None:
            if self.kind_of(message) == "Z":
                self.link.cut()

    def take(self, kind: str, message: bytes) -> bytes:
        if kind == "Z":
            self.link.busy = False
        elif kind == "K":
            self.proxy.backends.add(struct.unpack_from("!I", message, 5)[0])
        return message

    def send(self, data: bytes | bytearray) -> None:
        if data and self.link.client and not self.link.client.is_closing():
            self.link.client.write(bytes(data))


def _problem(context: Mapping[str, object]) -> BaseException:
    cause = context.get("exception")
    return cause if isinstance(cause, BaseException) else RuntimeError(str(context.get("message")))
