"""One connection to an NBD server, and whoever waits for its replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.core import fasttls
from gateway.core.pump import Outlet, able
from gateway.wire.nbd import Command, CommandFlag, Reply, Transmission
from gateway.wire.nbd_negotiation import Export, Negotiation

_log = Logger()

#: Source: NBD protocol, section "Error values".
_MEANINGS = {
    1: "operation not permitted",
    5: "I/O error",
    12: "out of memory",
    22: "invalid argument",
    28: "no space left on device",
    75: "value too large",
    95: "operation not supported",
    108: "the server is shutting down",
}
_FULL = 28


class NbdConnection(Protocol):
    """A connection to a server; a context manager, after which others may have it.

    :ivar ready: fires with the export once the handshake is over.
    :ivar idle: called when it can be used again; ``gone`` once, when it can not.
    """

    def __init__(self, negotiation: Negotiation) -> None:
        self.ready: Deferred[Export] = Deferred(self._unwanted)
        self._greeting: Deferred[Export] | None = self.ready
        self.idle: Callable[[], None] = self.abort
        self.gone: Callable[[], None] = lambda: None
        self._negotiation = negotiation
        self._codec: Transmission | None = None
        self._waiting: dict[int, Deferred[Reply]] = {}
        self._over = False
        self._short = False
        self._wire: Any = None

    @property
    def export(self) -> Export:
        assert self._codec is not None  # noqa: S101 (only a connection that is ready is handed out)
        return self._codec.export

    def connectionMade(self) -> None:
        self._wire = self.transport
        self._short = able(self._wire)
        if self._short:
            self._wire.bufferSize = fasttls.READ

    def request(
        self, command: Command, offset: int = 0, length: int = 0, flags: CommandFlag = CommandFlag.NONE
    ) -> Deferred[Reply]:
        """Send a request; for WRITE, *length* bytes must be written next.

        Cancelling the answer drops the connection.
        """
        assert self._codec is not None  # noqa: S101 (see export)
        if self._over:
            return defer.fail(_lost())
        handle, head = self._codec.request(command, offset, length, flags)
        self.write(head)
        answer: Deferred[Reply] = Deferred(lambda _: self._cancelled(handle))
        self._waiting[handle] = answer
        return answer

    def write(self, data: bytes) -> None:
        if self._short and not self._over:
            # At once, and without a copy.
            fasttls.send(self._wire, memoryview(data))
        elif not self._over:
            self._wire.write(data)

    def outlet(self, took: Callable[[int], None]) -> Outlet | None:
        """What takes bytes past the protocol, see :mod:`gateway.core.pump`; None where that cannot be."""
        return Outlet(self._wire, took) if self._short and not self._over else None

    def registerProducer(self, producer: Any) -> None:
        if self._over:
            producer.pauseProducing()
        else:
            self._wire.registerProducer(producer, True)

    def unregisterProducer(self) -> None:
        if not self._over:
            self._wire.unregisterProducer()

    def dataReceived(self, data: bytes) -> None:
        try:
            if self._codec is not None:
                self._answer(self._codec.receive(data))
                return
            self._wire.write(self._negotiation.receive(data))
        except errors.UpstreamFailed as error:
            self.abort(error)
            return
        greeting = self._greeting
        if self._negotiation.export is not None and greeting is not None:
            self._greeting = None
            self._codec = Transmission(self._negotiation.export)
            greeting.callback(self._negotiation.export)

    def _unwanted(self, _: object) -> None:
        self._greeting = None
        self.abort()

    def _answer(self, replies: list[Reply]) -> None:
        for reply in replies:
            answer = self._waiting.pop(reply.handle, None)
            if answer is None:
                continue
            if reply.error:
                _log.warn(
                    "an NBD server reports error {number}: {text}",
                    number=reply.error,
                    text=reply.message[:200],
                )
                meaning = _MEANINGS.get(reply.error, "unknown error")
                reason = "space" if reply.error == _FULL else "nbd"
                answer.errback(errors.UpstreamFailed(f"The image cannot be used: {meaning}", reason=reason))
            else:
                answer.callback(reply)

    def _cancelled(self, handle: int) -> None:
        self._waiting.pop(handle, None)
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(_lost())

    def abort(self, error: errors.GatewayError | None = None) -> None:
        """Cut the connection; whoever waits for a reply gets *error*."""
        if not self._over:
            if self._wire is not None:
                self._wire.abortConnection()
            self._end(error or _lost())

    def leave(self) -> None:
        """Say good-bye and close."""
        if not self._over and self._codec is not None:
            self._wire.write(self._codec.request(Command.DISC)[1])
            self._wire.loseConnection()
            self._end(_lost())

    def _end(self, error: errors.GatewayError) -> None:
        if self._over:
            return
        self._over = True
        self.gone()
        waiting, self._waiting = self._waiting, {}
        for answer in [*waiting.values()]:
            answer.errback(error)
        greeting, self._greeting = self._greeting, None
        if greeting is not None:
            greeting.errback(error)

    def release(self) -> None:
        """Give it back; with a request still open it is of no use to anybody."""
        if self._waiting:
            self.abort()
        elif not self._over:
            self.idle()

    def __enter__(self) -> NbdConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _lost() -> errors.UpstreamFailed:
    return errors.UpstreamFailed("The host behind the gateway broke off", reason="lost")
