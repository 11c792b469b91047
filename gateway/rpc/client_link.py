"""The connection of a client: made, logged in to, and made again when it is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from random import SystemRandom
from typing import Any

from attrs import frozen
from cryptography import x509
from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.core import outside
from gateway.core.tls_client import strict_creator
from gateway.rpc import commands
from gateway.rpc.amp import Limits, Responder, table
from gateway.rpc.arguments import HARD_CAP
from gateway.rpc.client_side import Side
from gateway.rpc.command import Command

PORT = 16515
#: Seconds until the first new attempt, and between two of them at most.
FIRST, FURTHEST = 0.5, 30.0
_random = SystemRandom()
#: What an answer may have: text and bytes in parts, and what goes with them.
_ROOM = (2 * HARD_CAP + 2**20, 4096)


@frozen
class Session:
    """Who one is, and until when.

    :ivar id: the gateway's public number of this connection.
    :ivar expires: UTC; then the gateway hangs up, unless the ticket is renewed.
    :ivar features: words for what this gateway can do.
    """

    id: str
    principal: str
    expires: datetime
    features: tuple[str, ...]


class _Gone(errors.Interrupted):
    """It is the connection to the gateway that was lost."""

    default = "The gateway is gone"


@frozen
class Address:
    """Where the gateway is, and how both sides prove themselves.

    :ivar ca: CAs that may have signed the gateway's certificate, which must carry exactly *host*.
    :ivar certificate: our own, with its *key*, if the gateway wants one.
    :ivar timeout: seconds for TCP and TLS, and for the login.
    """

    host: str
    port: int
    ca: Sequence[x509.Certificate | Path]
    certificate: Path | None = None
    key: Path | None = None
    timeout: float = 10.0


class Link:
    """A connection that is logged in to, now or soon.

    :ivar session: of the last login.
    :ivar renewed: awaited after each login but the first; must not fail.
    :ivar ended: told once when there will be no new connection, with the reason.
    :param token: asked for a token, or the id of a ticket, before each login.
    :param again: whether a lost connection is made again.
    :param pause: seconds until the first new attempt, more or less; each one takes twice as long, up to
        *longest*.
    :param responders: what the gateway may ask, by command.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: Address,
        token: Callable[[], str],
        responders: Sequence[tuple[type[Command], Responder]],
        *,
        again: bool = False,
        pause: float = FIRST,
        longest: float = FURTHEST,
        jitter: Callable[[], float] = _random.random,
    ) -> None:
        self.session = Session("", "", datetime.min, ())
        self.renewed: Callable[[], Awaitable[None]] | None = None
        self.ended: Callable[[errors.GatewayError], object] = lambda reason: None
        self._reactor = reactor
        self._address = address
        self._token = token
        self._table = table(*responders)
        self._again = again
        self._pause = pause
        self._longest = longest
        self._jitter = jitter
        self._side: Side | None = None
        self._making: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._reason: errors.GatewayError | None = None

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._side is not None

    async def open(self) -> None:
        """Make the first connection.

        :raises gateway.errors.GatewayError: there is none; nothing is tried again.
        """
        side = await self._make()
        self._take(side)

    def close(self) -> None:
        """Hang up for good; what was asked fails."""
        self._end(errors.Interrupted("The connection was closed", maybe_executed=False))
        side, self._side = self._side, None
        if side is not None:
            side.close()

    async def ask(self, command: type[Command], **arguments: Any) -> dict[str, Any]:
        """Ask for *command*, on a connection that is made again first if it has to be.

        What only reads, or has a request_id, is asked again once when its connection was lost.
        Cancelling it gives up the answer; with a request_id the gateway is told to give up, too.

        :raises gateway.errors.GatewayError: as the gateway says.
        :raises gateway.errors.Interrupted: the connection was lost.
        """
        twice = self._again and not (command.writes and arguments.get("request_id") is None)
        for last in (not twice, True):
            side = self._side
            if side is None or side.over:
                side = await self._ready()
            try:
                return await self._once(side, command, arguments)
            except _Gone:
                if last:
                    raise
        raise AssertionError

    async def _once(self, side: Side, command: type[Command], arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            asked = side.ask(command, arguments)
        except error.ConnectionLost:
            raise _Gone(maybe_executed=False) from None
        try:
            return await asked
        except error.ConnectionLost:
            if side.farewell is not None:
                raise side.farewell from None
            raise _Gone(maybe_executed=command.writes) from None
        except CancelledError:
            request_id = arguments.get("request_id")
            if request_id is not None and command is not commands.Cancel and side is self._side:
                given_up = side.ask(commands.Cancel, {"request_id": request_id})
                given_up.addErrback(lambda _: None)
            raise

    async def _ready(self) -> Side:
        while self._side is None or self._side.over:
            if self._reason is not None:
                raise self._reason
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
        return self._side

    async def _make(self) -> Side:
        """A connection that is logged in to.

        :raises gateway.errors.GatewayError:
        """
        side = Side(self._reactor, {}, Limits(login=None))
        side.admit(self._table, room=_ROOM)
        try:
            await self._dial(side)
            login = Deferred.fromCoroutine(self._once(side, commands.Login, {"token": self._token()}))
            answer = await login.addTimeout(self._address.timeout, self._reactor)
        except (defer.TimeoutError, error.TimeoutError):
            self._cut(side)
            raise errors.UpstreamTimeout("The gateway does not answer", reason="connect") from None
        except (errors.GatewayError, CancelledError):
            self._cut(side)
            raise
        self.session = Session(
            answer["session"], answer["principal"], answer["expires"], tuple(answer["features"])
        )
        return side

    async def _dial(self, side: Side) -> None:
        address = self._address
        creator = strict_creator(
            address.host, address.ca, client_certificate=address.certificate, client_key=address.key
        )
        factory = Factory.forProtocol(lambda: side)
        await outside.connect(self._reactor, address.host, address.port, creator, factory, address.timeout)

    @staticmethod
    def _cut(side: Side) -> None:
        if side.transport is not None:
            side.transport.abortConnection()  # type: ignore[attr-defined]  # no ITransport has it

    def _take(self, side: Side) -> None:
        if side.transport is None:
            self._lost(side, "left")
            return
        self._side = side
        side.lost = lambda word: self._lost(side, word)
        waiting, self._waiting = self._waiting, []
        for it in waiting:
            it.callback(None)

    def _lost(self, side: Side, word: str) -> None:
        if self._side is side:
            self._side = None
        if self._reason is not None or self._making is not None:
            return
        farewell = side.farewell
        if not self._again or isinstance(farewell, errors.Unauthorized | errors.Forbidden):
            self._end(farewell or _Gone(maybe_executed=False))
            return
        self._making = Deferred.fromCoroutine(self._make_again())
        self._making.addErrback(self._stopped)

    def _stopped(self, failure: Failure) -> None:
        self._making = None
        if failure.check(CancelledError) is None:
            self.log.failure("no new connection is made", failure)
            self._end(_Gone(maybe_executed=False))

    async def _make_again(self) -> None:
        delay = self._pause
        while True:
            # Not all of those who were cut at once come back at once.
            await deferLater(self._reactor, delay * (0.5 + self._jitter()))
            delay = min(2 * delay, self._longest)
            try:
                side = await self._make()
            except (errors.Unauthorized, errors.Forbidden) as refusal:
                self._making = None
                self._end(refusal)
                return
            except errors.GatewayError as failure:
                self.log.info("the gateway is still gone: {reason}", reason=failure.reason)
                continue
            break
        self._making = None
        self._take(side)
        if self.renewed is not None and self._side is side:
            await self.renewed()

    def _end(self, reason: errors.GatewayError) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        making, self._making = self._making, None
        if making is not None:
            making.cancel()
        self.ended(reason)
        waiting, self._waiting = self._waiting, []
        for it in waiting:
            it.callback(None)
