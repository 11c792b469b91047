"""One libvirt stream, which carries a volume, a console or a picture.

There is no credit and no acknowledgement for its data: whoever does not read stops the whole connection. So a
stream has a connection of its own, and pauses that.
Source: libvirt 9.0.0, virnetclientstream.c and daemon/stream.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.wire.libvirt_message import CHUNK, Message, Status, Type, read_error
from gateway.wire.libvirt_schema import record
from gateway.wire.xdr import XdrError

if TYPE_CHECKING:
    from gateway.rpc.connection import LibvirtConnection

Sink = Callable[[bytes], object]

#: Messages that may come before the answer to the call that opens a stream: libvirtd writes them when it has
#: them, and the answer when its worker is done. Source: observed on libvirtd 9.0.
EARLY = 32


@implementer(IPushProducer)
class Stream:
    """Both directions of one stream; a source and a sink of :mod:`gateway.core.relay`.

    :param head: the first message of the call that opened it, whose numbers all others repeat.
    :ivar writes: what is lost with it may have been written.
    :ivar hole: told the length of each hole, where the stream was opened to have some.
    :ivar over: why there is nothing more, or empty.
    """

    def __init__(self, connection: LibvirtConnection, head: Message, *, writes: bool) -> None:
        self._connection = connection
        self._head = head
        self.writes = writes
        self._sink: Sink | None = None
        self._held: list[bytes] = []
        self._open = False
        self._paused = False
        self._finished = False
        self._waiting: list[Deferred[None]] = []
        self._failure: errors.GatewayError | None = None
        self._watchers: list[Callable[[str], object]] = []
        self.hole: Callable[[int], object] | None = None
        self.over = ""

    # -- in --------------------------------------------------------------------------------

    def deliver(self, sink: Sink) -> Deferred[None]:
        """Hand all that arrives to *sink*; fire when the other side has confirmed the end of it.

        The Deferred fails with a :class:`~gateway.errors.GatewayError` when the stream breaks off.
        """
        if self._failure is None:
            self._sink, self._paused = sink, False
            held, self._held = self._held, []
            for data in held:
                sink(data)
            if not self._paused:
                self.resumeProducing()
        return self._end()

    def tap(self) -> None:
        """There is no shorter way for these bytes; see :mod:`gateway.core.pump`."""

    def pauseProducing(self) -> None:
        self._paused = True
        # The confirmation of the end is read in any case.
        if not self.over and not self._finished:
            self._connection.read(False)

    def resumeProducing(self) -> None:
        self._paused = False
        if not self.over:
            self._connection.read(True)

    def stopProducing(self) -> None:
        self.abort()

    # -- out -------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send *data*; nothing happens when the stream is over."""
        for at in range(0, len(data), CHUNK):
            if self.over or self._finished:
                return
            self._send(Type.STREAM, Status.CONTINUE, bytes(data[at : at + CHUNK]))

    def skip(self, length: int) -> None:
        """Leave a hole of *length* bytes, in a stream that was opened to have some."""
        if not self.over and not self._finished:
            self._send(Type.HOLE, Status.CONTINUE, record("{hole}").pack({"length": length, "flags": 0}))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """*producer* is paused and resumed, and stopped when the stream ends before it does."""
        if not streaming:
            raise ValueError("only push producers are served")
        if self.over:
            producer.stopProducing()
        else:
            self._connection.outbox.registerProducer(producer)

    def unregisterProducer(self) -> None:
        self._connection.outbox.unregisterProducer()

    def finish(self) -> Deferred[None]:
        """Say that this was all; fire when the hypervisor has confirmed that it is stored.

        It fails with a :class:`~gateway.errors.GatewayError` otherwise.
        """
        self._finish()
        return self._end()

    def abort(self) -> None:
        """Give it up; the other side hears so."""
        if not self.over:
            self._send(Type.STREAM, Status.ERROR, b"")
            self.broken(errors.Interrupted(maybe_executed=self.writes), "aborted")

    def close(self) -> None:
        """Close the connection of the stream."""
        self.abort()
        self._connection.close()

    def when_over(self, watcher: Callable[[str], object]) -> None:
        """Call *watcher* once with a word, when the stream is over or its connection lost."""
        if self.over:
            watcher(self.over)
        else:
            self._watchers.append(watcher)

    # -- of the connection -----------------------------------------------------------------

    def message(self, message: Message) -> None:
        """Take a message of this stream.

        :raises XdrError: it makes no sense.
        """
        if self.over:
            return
        if message.status == Status.ERROR:
            self.broken(read_error(message.payload), "refused")
        elif message.status == Status.OK:
            self._ended("finished")
        elif message.type == Type.HOLE:
            length = record("{hole}").unpack(message.payload)["length"]
            if self.hole is None or length < 0:
                raise XdrError("a hole that nobody asked for")
            self.hole(length)
        elif not message.payload:
            # The end of the data; the stream is over when both have said so.
            self._finish()
        elif self._sink is not None:
            self._sink(message.payload)
        elif not self._finished:
            self._held.append(message.payload)
            if self._open:
                self.pauseProducing()
            elif len(self._held) > EARLY:
                raise XdrError("too much of a stream that is not open")

    def opened(self) -> None:
        """The answer to the call is there, after which data is read only when it is wanted."""
        self._open = True
        if self._held:
            self.pauseProducing()

    def broken(self, failure: errors.GatewayError, reason: str) -> None:
        """The stream ends before its end."""
        if not self.over:
            self._failure = failure
            self._ended(reason)

    def _finish(self) -> None:
        if not self.over and not self._finished:
            self._finished = True
            self._send(Type.STREAM, Status.OK, b"")
            self._connection.read(True)

    def _end(self) -> Deferred[None]:
        """What fires when the stream is over; to cancel it is to give the stream up."""
        if not self.over:
            self._waiting.append(Deferred(lambda _: self.abort()))
            return self._waiting[-1]
        return succeed(None) if self._failure is None else fail(self._failure)

    def _ended(self, reason: str) -> None:
        self.over = reason
        self._connection.forget(self._head.serial)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if self._failure is None:
                deferred.callback(None)
            else:
                deferred.errback(Failure(self._failure))
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher(reason)
        # By now they had their chance to let go of it in their own way.
        self._connection.outbox.release()

    def _send(self, kind: int, status: int, payload: bytes) -> None:
        head = self._head
        message = Message(head.program, head.version, head.procedure, kind, head.serial, status, payload)
        self._connection.outbox.send(message.pack())
