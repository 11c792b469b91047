"""The AMP endpoint: its connections, from the login to the end of their session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from gateway import __version__, errors
from gateway.rpc import answers_base, answers_domains, answers_events, answers_objects, commands
from gateway.rpc.amp import BoundedAMP, Limits, table
from gateway.rpc.answers_events import Told
from gateway.rpc.command import Command
from gateway.rpc.desk import Desk
from gateway.rpc.login import Caller, Logins, subject_of
from gateway.rpc.seat import Responder, Seat

#: What a client may rely on.
PROTOCOL = 1
FEATURES = ("events", "replay", "journal", "tickets", "streams", "xdr")
#: When a session without a ticket ends: never, as far as AMP can say.
_NEVER = timedelta(days=3650)


class Connection(BoundedAMP):
    """One connection.

    :ivar seat: once somebody has logged in.
    """

    def __init__(self, door: Door) -> None:
        strangers = table((commands.Version, self._version), (commands.Login, self._login))
        super().__init__(door.clock, strangers, door.limits)
        self.seat: Seat | None = None
        self._door = door
        self.lost = self._left

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)
        self._door.connections[self] = None
        if hasattr(transport, "setTcpKeepAlive"):
            transport.setTcpKeepAlive(1)

    def dataReceived(self, data: bytes) -> None:
        if self.seat is not None:
            self.seat.caller.session.bytes_in += len(data)
        super().dataReceived(data)

    def _write(self, data: bytes) -> None:
        if self.seat is not None:
            self.seat.caller.session.bytes_out += len(data)
        super()._write(data)

    async def _version(self) -> Mapping[str, Any]:
        return {"gateway": __version__, "protocol": PROTOCOL}

    async def _login(self, token: str) -> Mapping[str, Any]:
        door = self._door
        if door.draining:
            raise _leaving()
        try:
            caller = await self._caller(token)
        except (errors.Unauthenticated, errors.TooManyRequests) as error:
            door.refused(self.peer, error)
            raise
        if self.over:
            caller.session.close("left")
            raise errors.Unauthenticated
        self.seat = Seat(door.desk, caller, Told(self), self._soon)
        door.desk.seats.add(self.seat)
        self.admit(table((commands.Version, self._version), *door.bound(self.seat)))
        return {
            "session": caller.session.id,
            "principal": caller.principal,
            "expires": door.expires(caller),
            "features": FEATURES,
        }

    async def _caller(self, token: str) -> Caller:
        if token:
            return await self._door.logins.token(token, self.peer, self._ended)
        subject = subject_of(self.transport)
        if subject is None:
            raise errors.Unauthenticated
        await self._door.judge(self.transport)
        return self._door.logins.certificate(subject, self.peer, self._ended)

    def _soon(self, act: Callable[[], object]) -> None:
        self._door.clock.callLater(0, act)

    def _ended(self, word: str) -> None:
        """The session must end: all that is under way with it, at once."""
        texts = {"expired": "The ticket has expired", "revoked": "The ticket was revoked"}
        self.end(errors.Expired(texts.get(word, f"The session was ended: {word}"), reason=word))

    def _left(self, word: str) -> None:
        self._door.connections.pop(self, None)
        seat, self.seat = self.seat, None
        if seat is not None:
            seat.events.stop()
            self._door.desk.seats.discard(seat)
            seat.caller.session.close(word)

    def leave(self) -> None:
        """Close as soon as nothing is under way."""
        if not self.calls:
            self.end(_leaving())
        else:
            self._door.clock.callLater(0.1, self.leave)


@define(eq=False)
class Door(Factory):
    """Makes connections of what comes in on the listener.

    :ivar limits: of each connection.
    :ivar judge: raises when the address of a connection does not stand in its certificate, where it has to.
    :ivar refused: told of each login that failed: the peer and the error.
    """

    clock: IReactorTime
    logins: Logins
    refused: Callable[[str, errors.GatewayError], object]
    judge: Callable[[Any], Awaitable[None]]
    limits: Limits = field(factory=Limits)
    desk: Desk = field(init=False)
    users: Mapping[type[Command], Responder] = field(factory=dict, init=False)
    operators: Mapping[type[Command], Responder] = field(factory=dict, init=False)
    draining: bool = field(default=False, init=False)
    connections: dict[Connection, None] = field(factory=dict, init=False)
    noisy = False

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "rpc"

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """A connection of somebody who has not logged in."""
        return Connection(self)

    def bound(self, seat: Seat) -> Iterator[tuple[type[Command], Responder]]:
        """What answers on one connection."""
        for command, act in {**self.users, **self.operators}.items():
            yield command, seat.bound(command, act)

    def expires(self, caller: Caller) -> datetime:
        """When a session ends unless it is renewed."""
        now = datetime.fromtimestamp(self.desk.wall(), UTC)
        ticket = caller.ticket
        left = _NEVER if ticket is None else timedelta(seconds=ticket.deadline - self.clock.seconds())
        return now + left

    def drain(self) -> None:
        """Let nobody in any more, and everybody go who has nothing under way."""
        self.draining = True
        for connection in list(self.connections):
            connection.leave()

    def close(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.end(_leaving())


def _leaving() -> errors.Unavailable:
    return errors.Unavailable("The gateway is going away", reason="drained")


def users(more: Iterable[Mapping[type[Command], Responder]]) -> dict[type[Command], Responder]:
    """What everybody who has logged in may ask, as far as the rights of the ticket go."""
    known: dict[type[Command], Responder] = {}
    for each in (
        answers_base.RESPONDERS,
        answers_domains.RESPONDERS,
        answers_objects.RESPONDERS,
        answers_events.RESPONDERS,
        *more,
    ):
        known.update(each)
    return known
