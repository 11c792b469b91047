"""The bytes of an image on their way from and to an NBD server, several requests at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.pump import Outlet, Vessel
from gateway.images.nbd_connection import NbdConnection
from gateway.wire.nbd import Command, Reply

#: Bytes of one request to read, and bytes that may be asked for ahead of what was delivered.
READ = 256 * 1024
_AHEAD = 4 * READ
#: Bytes of one request to write, and how many of them may wait for their reply.
WRITE = 1024 * 1024
_BEHIND = 4


@implementer(IPushProducer)
class NbdSource:
    """Reads a range, a few requests ahead while it is wanted, and gives its connection back at the end."""

    def __init__(self, connection: NbdConnection, start: int, stop: int) -> None:
        self._connection: NbdConnection | None = connection
        self._next = self._asked = start
        self._stop = stop
        self._here: dict[int, bytes] = {}
        self._sink: Callable[[bytes], None] = lambda data: None
        self._delivered: Deferred[None] | None = None
        self._wanted = False
        self._busy = False

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self._sink = sink
        delivered: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._delivered = delivered
        self.resumeProducing()
        return delivered

    def pauseProducing(self) -> None:
        self._wanted = False

    def resumeProducing(self) -> None:
        self._wanted = True
        self._go()

    def stopProducing(self) -> None:
        self._delivered = None
        self._here.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _go(self) -> None:
        """Ask for what is next, and hand on what is here; the sink may pause us in between."""
        if self._busy:
            return
        self._busy = True
        while self._delivered is not None:
            if self._next == self._stop:
                self._end(None)
                break
            if self._wanted:
                self._ask()
            data = self._here.pop(self._next, None) if self._wanted else None
            if data is None:
                break
            self._next += len(data)
            self._sink(data)
        self._busy = False

    def _ask(self) -> None:
        while self._asked < self._stop and self._asked - self._next < _AHEAD and self._connection is not None:
            length = min(READ, self._stop - self._asked)
            answer = self._connection.request(Command.READ, self._asked, length)
            at, self._asked = self._asked, self._asked + length
            answer.addCallbacks(partial(self._got, at), self._broken)

    def _got(self, at: int, reply: Reply) -> None:
        if self._delivered is not None:
            self._here[at] = reply.data
            self._go()

    def _broken(self, failure: Failure) -> None:
        self._end(failure.value)

    def _end(self, error: BaseException | None) -> None:
        delivered, self._delivered = self._delivered, None
        connection, self._connection = self._connection, None
        self._here.clear()
        if connection is not None:
            connection.release()
        if delivered is not None:
            delivered.callback(None) if error is None else delivered.errback(error)


class _Vessel:
    """What is filled goes out at once, as long as it fits into one request."""

    def __init__(self, outlet: Outlet, filled: Callable[[Outlet, int], None]) -> None:
        self.room = outlet.room
        self.took = outlet.took
        self.filled = partial(filled, outlet)


@implementer(IConsumer, IPushProducer)
class NbdSink:
    """Writes a body of known length: the bytes are passed on as they come, nothing is kept.

    :ivar error: what the server failed with.
    :ivar broken: called when there is an error.
    """

    def __init__(self, connection: NbdConnection, offset: int, length: int) -> None:
        self.error: BaseException | None = None
        self.broken: Callable[[], None] = lambda: None
        self._connection = connection
        self._moved = 0
        self._replies = 0
        self._at = offset
        self._left = length
        self._room = 0
        self._open = 0
        self._full = False
        self._paused = False
        self._producer: Any = None
        self._done: Deferred[None] | None = None

    @property
    def held(self) -> bool:
        """Whether it is the server's turn."""
        return self._paused or self._producer is None

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that went by, and requests that were done."""
        return self._moved, self._replies

    def write(self, data: bytes) -> None:
        self._moved += len(data)
        self._pass(data)

    def _pass(self, data: bytes) -> None:
        if len(data) > self._room + self._left:
            raise errors.BadRequest("The body is longer than it said")
        while data:
            self._begin()
            piece = data[: self._room]
            self._room -= len(piece)
            self._connection.write(piece)
            data = data[len(piece) :]
        self._begin()
        self._flow()

    def _begin(self) -> None:
        """Announce the next piece before it is here: with a request open, a lost server is noticed."""
        if self._room or not self._left:
            return
        size = min(WRITE, self._left)
        self._open += 1
        answer = self._connection.request(Command.WRITE, self._at, size)
        self._room = size
        self._at += size
        self._left -= size
        answer.addCallbacks(self._answered, self._failed)

    def vessel(self) -> Vessel | None:
        """What takes the body past the protocol; see :class:`gateway.core.relay.Vesselled`."""
        outlet = self._connection.outlet(self._took)
        return None if outlet is None else _Vessel(outlet, self._filled)

    def _took(self, size: int) -> None:
        self._moved += size

    def _filled(self, outlet: Outlet, size: int) -> None:
        if size >= self._room:
            # It reaches into the next request.
            self._pass(bytes(outlet.room()[:size]))
        else:
            self._room -= size
            outlet.filled(size)

    def _answered(self, _: Reply) -> None:
        self._open -= 1
        self._replies += 1
        self._flow()
        if self._done is not None and not self._open:
            done, self._done = self._done, None
            done.callback(None)

    def _failed(self, failure: Failure) -> None:
        if self.error is None:
            self.error = failure.value
            self.broken()

    async def finished(self) -> None:
        """Wait for the replies to all that was written."""
        if self._room or self._left:
            raise errors.BadRequest("The body is shorter than it said")
        if self.error is not None:
            raise self.error
        if self._open:
            self._done = Deferred()
            await self._done

    # -- between the connection and the source ---------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        self._connection.registerProducer(self)
        self._begin()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._connection.unregisterProducer()

    def pauseProducing(self) -> None:
        self._full = True
        self._flow()

    def resumeProducing(self) -> None:
        self._full = False
        self._flow()

    def stopProducing(self) -> None:
        """The connection is lost, which its requests report."""
        self.pauseProducing()

    def _flow(self) -> None:
        paused = self._full or self._open > _BEHIND
        if self._producer is not None and paused != self._paused:
            self._paused = paused
            if paused:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()
