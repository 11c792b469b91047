"""Opens sockets, several at once if need be, and hands over the first that is connected."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

#: Seconds until the next address is tried beside one that has not answered.
STAGGER = 0.3
#: Seconds of silence before the first probe, seconds between probes, how many.
KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 3))
#: Bytes that a unix socket may hold for its peer: a few chunks.
_UNIX_BUFFER = 512 * 1024

Open = Callable[[ClientFactory[Protocol]], IConnector]


class _Arrival(Protocol):
    """Holds the place of a protocol until somebody takes the connection."""

    def __init__(self, arrived: Callable[[ITransport], None]) -> None:
        self._arrived = arrived

    def connectionMade(self) -> None:
        self._arrived(cast(ITransport, self.transport))


class _Attempt(ClientFactory[Protocol]):
    """One attempt to connect one socket.

    :ivar outcome: fires with the transport as it arrives, which is then taken in the same turn;
        cancelling it leaves nothing behind.
    """

    noisy = False

    def __init__(self) -> None:
        self.outcome: Deferred[ITransport] = Deferred(self._give_up)
        self._connector: IConnector | None = None

    def startedConnecting(self, connector: IConnector) -> None:
        self._connector = connector

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Arrival(self._arrived)

    def _arrived(self, transport: ITransport) -> None:
        if self.outcome.called:
            cast(Any, transport).abortConnection()
        else:
            self.outcome.callback(transport)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.outcome.called:
            self.outcome.errback(reason)

    def _give_up(self, outcome: Deferred[ITransport]) -> None:
        # Cancelled first, so that what the connector says about it is not heard.
        connector, self._connector = self._connector, None
        outcome.errback(error.ConnectionAborted())
        if connector is not None:
            connector.disconnect()


def attempt(open_socket: Open) -> Callable[[], Deferred[ITransport]]:
    """Something for :func:`race` to start."""

    def start() -> Deferred[ITransport]:
        attempt = _Attempt()
        open_socket(attempt)
        return attempt.outcome

    return start


def race(clock: IReactorTime, attempts: Sequence[Callable[[], Deferred[ITransport]]]) -> Deferred[ITransport]:
    """Start one after another, each when the one before failed or kept silent; the first wins.

    Source: RFC 8305, section 5. The others are cancelled, and cancelling the answer cancels all. The
    transport must be taken (:func:`attach`) in the turn it arrives in.
    """
    return _Race(clock, list(attempts)).answer


class _Race:
    def __init__(self, clock: IReactorTime, waiting: list[Callable[[], Deferred[ITransport]]]) -> None:
        self.answer: Deferred[ITransport] = Deferred(lambda _: self._stop())
        self._clock = clock
        self._waiting = waiting
        self._running: list[Deferred[ITransport]] = []
        self._timer: IDelayedCall | None = None
        self._over = False
        self._start()

    def _start(self) -> None:
        self._rest()
        start = self._waiting.pop(0)
        if self._waiting:
            self._timer = self._clock.callLater(STAGGER, self._due)
        outcome = start()
        self._running.append(outcome)
        outcome.addCallbacks(self._won, self._lost, callbackArgs=(outcome,), errbackArgs=(outcome,))

    def _due(self) -> None:
        self._timer = None
        self._start()

    def _rest(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _stop(self) -> None:
        self._over = True
        self._rest()
        for outcome in [*self._running]:
            outcome.cancel()

    def _won(self, transport: ITransport, outcome: Deferred[ITransport]) -> None:
        self._running.remove(outcome)
        self._stop()
        self.answer.callback(transport)

    def _lost(self, reason: Failure, outcome: Deferred[ITransport]) -> None:
        self._running.remove(outcome)
        if self._over:
            return
        if self._waiting:
            self._start()
        elif not self._running:
            self.answer.errback(reason)


def attach(transport: Any, protocol: IProtocol) -> None:
    """Let *protocol* have the connection, with no hop between them."""
    transport.protocol = protocol
    protocol.makeConnection(transport)


def tune(transport: Any) -> None:
    """No delay, and probes when the peer is silent; a unix socket needs neither, but room."""
    handle: socket.socket = transport.getHandle()
    if handle.family == socket.AF_UNIX:
        # It does not grow as that of TCP does.
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER)
        return
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    for option, value in KEEP_ALIVE:
        handle.setsockopt(socket.IPPROTO_TCP, option, value)
