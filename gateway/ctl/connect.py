"""``gateway-connect``: standard input and output of a libvirt client, carried over a websocket.

Each side waits for the other: what standard output does not take is not read from the gateway, and the client
is not read while the gateway takes nothing. Why it ends is said on standard error, which libvirt shows to its
user; the exit code is 0 when the client has hung up, or the gateway after a good-bye.
Source: RFC 6455; RFC 6750, section 2.1.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.python import usage
from zope.interface import implementer

from gateway import errors
from gateway.core import outside
from gateway.core.tls_client import strict_creator
from gateway.ctl.connect_settings import Options, Settings, Unusable, settings

#: Bytes of a message that is taken; those of a gateway are much smaller.
_LARGEST = 1 << 20
#: Seconds that the gateway has for its good-bye.
_GOODBYE = 2.0
_NORMAL, _LOST = 1000, 1006
_STATUS = {
    "401": "the token is no good, or it has expired",
    "403": "the token does not open this",
    "404": "there is no gateway at this address, or no [libvirt] in its configuration",
    "429": "there were too many bad tokens, try again later",
    "503": "the gateway is busy or going away, try again later",
}


def complain(problem: str) -> None:
    """Say on standard error what is wrong, and that this is all: libvirt reads it to its end."""
    sys.stderr.write(f"gateway-connect: {problem}\n")
    sys.stderr.flush()
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)


@implementer(IPushProducer)
class _Socket(WebSocketClientProtocol):  # type: ignore[misc, unused-ignore]  # untyped base
    """The websocket: what it gets goes to standard output, and the other way round.

    :param over: fires with the exit code when all is said and done.
    """

    transport: Any

    def __init__(self, over: Deferred[int]) -> None:
        super().__init__()
        self._over = over
        self._local: _Local | None = None
        self._problem = ""

    def onOpen(self) -> None:
        self._local = _Local(self)
        self._local.begin(self.factory.reactor)
        self.transport.registerProducer(self._local, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self._local is not None:
            self._local.transport.write(payload)

    def failHandshake(self, reason: str) -> None:
        status = [*getattr(self, "http_status_line", "").split(), "", ""][1]
        self._problem = _STATUS.get(status, "what answers there is no gateway")
        super().failHandshake(reason)

    def onOpenHandshakeTimeout(self) -> None:
        if self.state == self.STATE_CONNECTING:
            self._problem = "the gateway does not answer"
        super().onOpenHandshakeTimeout()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        local = self._local
        if local is not None and local.left:
            self.settle()
            return
        if code == _LOST:
            lost = "the connection to the gateway was lost"
            self._problem = self._problem or (f"{lost} before it answered" if local is None else lost)
        elif reason or code != _NORMAL:
            self._problem = f"the gateway has ended it: {reason or code}"
        if self._problem:
            complain(self._problem)
        if local is None:
            self.settle()
        else:
            local.end()

    def settle(self) -> None:
        """Nothing is left to do."""
        if not self._over.called:
            self._over.callback(1 if self._problem else 0)

    # -- of standard input and output ------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Send what the client says; when the gateway has said its good-bye it is dropped."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(data, isBinary=True)

    def leave(self) -> None:
        """The client has hung up."""
        self.transport.unregisterProducer()
        # Or the good-bye of the gateway would never be seen.
        self.transport.resumeProducing()
        self.sendClose(_NORMAL)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The client has gone, which is told in another way."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class _Local(Protocol):
    """Standard input and output; when one of them is at its end, so is the client.

    :ivar left: the client has hung up.
    """

    transport: Any

    def __init__(self, socket: _Socket) -> None:
        self.left = False
        self._socket = socket
        self._ending = False

    def begin(self, reactor: Any) -> None:
        """Read, and let *socket* write."""
        StandardIO(self, reactor=reactor).registerProducer(self._socket, True)

    def dataReceived(self, data: bytes) -> None:
        self._socket.say(data)

    def end(self) -> None:
        """Write what is left, then listen until the client hangs up: or what it writes would kill it."""
        self._ending = True
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        if not self._ending:
            self._leave()
            return
        with suppress(OSError), socket.socket(fileno=os.dup(0)) as both:
            # For libvirt one socket is both, and would stay open.
            both.shutdown(socket.SHUT_WR)
        self._socket.factory.reactor.callLater(_GOODBYE, self._socket.settle)

    def readConnectionLost(self) -> None:
        if self._ending:
            self._socket.settle()
        else:
            self._leave()

    def _leave(self) -> None:
        if not self.left:
            self.left = True
            self._socket.leave()

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The gateway has gone, which is told in another way."""


class _Factory(WebSocketClientFactory):  # type: ignore[misc, unused-ignore]  # untyped base
    """Makes the one websocket."""

    noisy = False

    def __init__(self, reactor: Any, where: Settings, over: Deferred[int]) -> None:
        host = f"[{where.host}]" if ":" in where.host else where.host
        super().__init__(
            f"wss://{host}:{where.port}/libvirt",
            headers={"Authorization": f"Bearer {where.token}"},
            reactor=reactor,
            useragent="gateway-connect",
        )
        self._over = over
        # The gateway asks for signs of life, and TCP does: while one side waits for the other, we cannot.
        self.setProtocolOptions(
            openHandshakeTimeout=where.timeout,
            closeHandshakeTimeout=_GOODBYE,
            maxFramePayloadSize=_LARGEST,
            maxMessagePayloadSize=_LARGEST,
        )

    def buildProtocol(self, addr: object) -> _Socket:
        socket = _Socket(self._over)
        socket.factory = self
        return socket


async def run(reactor: Any, where: Settings) -> int:
    """Carry standard input and output until either side is at its end; return the exit code.

    :raises Unusable: the gateway is out of reach, or does not want us.
    """
    over: Deferred[int] = Deferred()
    factory = _Factory(reactor, where, over)
    try:
        tls = strict_creator(where.host, [where.ca])
        await outside.connect(reactor, where.host, where.port, tls, factory, where.timeout)
    except errors.ConfigError as error:
        raise Unusable("\n".join(error.problems)) from None
    except errors.GatewayError as error:
        raise Unusable(f"{where.host}:{where.port}: {error.text} ({error.reason})") from None
    return await over


async def _main(reactor: Any, arguments: Sequence[str]) -> None:
    options = Options()
    try:
        options.parseOptions(list(arguments))
        code = await run(reactor, settings(options, os.environ, sys.argv[0]))
    except (usage.UsageError, Unusable) as error:
        complain(str(error))
        code = 1
    raise SystemExit(code)


def main() -> None:
    """The program."""
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, sys.argv[1:])))
