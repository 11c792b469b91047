"""The connection to a console, and bytes that a coroutine reads before somebody takes them for good."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core import fasttls
from gateway.core.pump import able

#: Seconds that a console has to take what its user typed last.
LAST_WORDS = 10.0

Take = Callable[[bytes], object]


def straight(wire: Any) -> Take:
    """What writes to *wire* without a turn of the reactor, as fast TLS does by itself."""
    plain = able(wire) and not isinstance(wire, fasttls.FastTLS)
    write: Take = partial(fasttls.send, wire) if plain else wire.write
    return write


class Inbox:
    """What one side says. It is read only while somebody waits for it.

    :param flow: lets that side speak, or stops it.
    :ivar over: nothing follows.
    """

    def __init__(self, flow: Callable[[bool], object]) -> None:
        self.over = False
        self.take: Take = self._hold
        self._flow = flow
        self._held = b""
        self._reader: Deferred[bytes] | None = None

    def put(self, data: bytes) -> None:
        """Take what that side says."""
        self.take(data)

    def end(self) -> None:
        """It says nothing more."""
        self.over = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(b"")

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        held, self._held = self._held, b""
        if held or self.over:
            return held
        reader: Deferred[bytes] = Deferred(self._leave)
        self._reader = reader
        self._flow(True)
        return await reader

    def unread(self, data: bytes) -> None:
        """Give back what :meth:`read` returned."""
        self._held = data + self._held

    def divert(self, take: Take) -> None:
        """From now on *take* gets all there is, at once."""
        self.take = take
        held, self._held = self._held, b""
        if held:
            take(held)
        if not self.over:
            self._flow(True)

    def _leave(self, _: object) -> None:
        self._reader = None

    def _hold(self, data: bytes) -> None:
        self._flow(False)
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(data)
        else:
            self._held += data


class Line(Protocol):
    """The connection to a console; silent at first.

    :ivar inbox: what the console says.
    :ivar write: takes what the console is told.
    :ivar ended: called when the console has hung up.
    """

    transport: Any
    write: Take

    def __init__(self) -> None:
        self.inbox = Inbox(self._flow)
        self.ended: Callable[[], object] = lambda: None

    def connectionMade(self) -> None:
        # Once more when TLS begins in the middle.
        self.write = straight(self.transport)
        if isinstance(self.transport, FileDescriptor):
            # As much at a time as fast TLS takes.
            self.transport.bufferSize = fasttls.READ
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.inbox.put(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.inbox.end()
        self.ended()

    def divert(self, take: Take) -> None:
        """From now on *take* gets what the console says, with no hop in between."""
        self.dataReceived = take  # type: ignore[method-assign, assignment]  # the next state's own
        self.inbox.divert(take)

    def part(self, clock: IReactorTime) -> None:
        """Hang up when the console has taken what was said last; it has :data:`LAST_WORDS` for that."""
        self.transport.resumeProducing()
        self.transport.loseConnection()
        self.cut_later(clock)

    def cut_later(self, clock: IReactorTime) -> None:
        """Cut the connection if the console does not hang up."""
        late = clock.callLater(LAST_WORDS, self.transport.abortConnection)

        def ended() -> None:
            if late.active():
                late.cancel()

        self.ended = ended

    def _flow(self, flows: bool) -> None:
        if flows:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()


@implementer(IPushProducer)
class Valve:
    """A console as a producer that two can stop: who takes what it says, and who writes it down."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._stopped = [False, False]

    def pauseProducing(self) -> None:
        self._stop(0, True)

    def resumeProducing(self) -> None:
        self._stop(0, False)

    def stopProducing(self) -> None:
        self._transport.stopProducing()

    def flow(self, flows: bool) -> None:
        """Let the second one stop it, or not any more."""
        self._stop(1, not flows)

    def _stop(self, who: int, stops: bool) -> None:
        before = any(self._stopped)
        self._stopped[who] = stops
        if any(self._stopped) == before:
            return
        if before:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()


class LineFactory(Factory):
    """Gives a connection its one protocol."""

    noisy = False

    def __init__(self, line: Line) -> None:
        self._line = line

    def buildProtocol(self, addr: IAddress | None) -> Line:
        return self._line
