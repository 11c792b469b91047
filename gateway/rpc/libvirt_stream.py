"""A stream of a client, and the one of a hypervisor behind it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.stream import Stream
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, Status, Type, pack_error
from gateway.wire.libvirt_schema import record
from gateway.wire.xdr import XdrError


@implementer(IPushProducer)
class ServedStream:
    """Passes one stream on, both ways; each side waits for the other.

    :param call: of the client, which opened it.
    :param told: how an error is told to this client.
    :param over: called once, when nothing follows.
    :param counted: told bytes from the client, and to it.
    :param limit: of these bytes; None for any number.
    """

    def __init__(
        self,
        server: LibvirtServer,
        call: Message,
        stream: Stream,
        told: Callable[[errors.GatewayError], LibvirtError],
        over: Callable[[str], object],
        counted: Callable[[int, int], object],
        *,
        sparse: bool,
        limit: int | None = None,
    ) -> None:
        self._server = server
        self._call = call
        self._stream = stream
        self._told = told
        self._over = over
        self._counted = counted
        self._sparse = sparse
        self._limit = limit
        self._passed = 0
        self._ended = False
        self._finishing = False

    def start(self, *, reads: bool, flowing: bool) -> None:
        """Begin to pass data.

        :param reads: the hypervisor sends some; otherwise the client does, and only the client.
        :param flowing: the client takes what is sent, at this time.
        """
        if self._sparse:
            self._stream.hole = self._hole
        self._stream.registerProducer(self, True)
        if reads:
            self._stream.deliver(self._out).addCallbacks(self._data_over, self._failed)
        else:
            self._stream.when_over(self._broken)
        if not flowing:
            self.flow(False)

    # -- from the client -------------------------------------------------------------------

    def message(self, message: Message) -> None:
        """Take what the client says on the stream.

        :raises XdrError: it makes no sense.
        """
        if self._ended:
            return
        if message.type == Type.HOLE:
            length = record("{hole}").unpack(message.payload)["length"]
            if not self._sparse or length < 0:
                raise XdrError("a hole that nobody asked for")
            self._stream.skip(length)
        elif message.status == Status.CONTINUE:
            self._counted(len(message.payload), 0)
            if self._fits(len(message.payload)):
                self._stream.write(message.payload)
        elif message.status == Status.ERROR:
            self._end("aborted")
            self._server.stream_message(self._call, Type.STREAM, Status.OK)
        elif not self._finishing:
            self._finishing = True
            self._finish()

    def _finish(self) -> None:
        finished: Deferred[None] = self._stream.finish()
        finished.addCallbacks(self._confirm, self._failed)

    def _confirm(self, _: None) -> None:
        if not self._ended:
            self._end("finished")
            self._server.stream_message(self._call, Type.STREAM, Status.OK)

    # -- from the hypervisor ---------------------------------------------------------------

    def _out(self, data: bytes) -> None:
        if not self._ended:
            self._counted(0, len(data))
            if self._fits(len(data)):
                self._server.data(self._call, data)

    def _hole(self, length: int) -> None:
        if not self._ended:
            payload = record("{hole}").pack({"length": length, "flags": 0})
            self._server.stream_message(self._call, Type.HOLE, Status.CONTINUE, payload)

    def _data_over(self, _: None) -> None:
        """All was sent; the client says finish, which costs nothing any more."""
        if not self._ended and not self._finishing:
            self._server.data(self._call, b"")

    def _broken(self, reason: str) -> None:
        """The hypervisor has ended a stream that is written to."""
        if not self._ended and not self._finishing:
            self._stream.finish().addCallbacks(self._data_over, self._failed)

    def _failed(self, failure: Failure) -> None:
        if self._ended:
            return
        error = failure.value
        if not isinstance(error, errors.GatewayError):
            self._server.abort("stream")
            return
        self.refuse(self._told(error), error.reason)

    def _fits(self, length: int) -> bool:
        """Count *length* bytes; the stream ends when they are too many."""
        self._passed += length
        if self._limit is None or self._passed <= self._limit:
            return True
        self._failed(Failure(errors.TooLarge(limit=self._limit)))
        return False

    def refuse(self, error: LibvirtError, reason: str = "ended") -> None:
        """End it with an *error* that the client is told."""
        if not self._ended:
            self._end(reason)
            self._server.stream_message(self._call, Type.STREAM, Status.ERROR, pack_error(error))

    def stop(self, reason: str) -> None:
        """The client is gone, or has to go."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._over(reason)
            self._stream.close()
            self._server.hold(self, False)

    # -- flow ------------------------------------------------------------------------------

    def flow(self, on: bool) -> None:
        """The client takes what is sent, or does not."""
        if not self._ended:
            if on:
                self._stream.resumeProducing()
            else:
                self._stream.pauseProducing()

    def pauseProducing(self) -> None:
        """The hypervisor takes no more: the client is not read."""
        self._server.hold(self, True)

    def resumeProducing(self) -> None:
        self._server.hold(self, False)

    def stopProducing(self) -> None:
        """The stream is lost, which is told in another way; and the client can say that it knows."""
        self._server.hold(self, False)
