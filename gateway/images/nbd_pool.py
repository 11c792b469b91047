"""The connections to NBD servers: a few for each export.

An operation has a connection to itself, so that cancelling it can drop the connection at once. A server that
does not say that its connections see each other's writes (``MULTI_CONN``) gets one at a time.
Source: NBD protocol, sections "Transmission flags" and "Ordering of messages and writes".
"""

from __future__ import annotations

from collections import deque
from functools import partial
from urllib.parse import unquote, urlsplit

from attrs import define, field, frozen
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory

from gateway import errors
from gateway.core.dial import Dialer
from gateway.images.nbd_connection import NbdConnection
from gateway.wire.nbd_negotiation import Export, Flags, Negotiation

#: The port of NBD. Source: IANA.
_PORT = 10809
#: Connections to one export that allows several.
_MANY = 8
#: Seconds: for the handshake; for a turn; until an idle connection is closed.
_HANDSHAKE = 10.0
_PATIENCE = 30.0
_IDLE = 30.0


@frozen
class Place:
    """Where an export is.

    :ivar socket: path of a unix socket, None for TCP.
    :ivar export: name of the export, empty for the default one.
    :ivar dirty: a dirty bitmap is wanted, too.
    """

    socket: str | None
    host: str
    port: int
    export: str
    dirty: bool = False

    @property
    def name(self) -> str:
        """For the list of sessions: no path."""
        if self.socket is not None:
            return "nbd"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place_of(url: str, *, dirty: bool = False) -> Place:
    """Take the ``nbd:`` *url* of a ticket apart. Source: QEMU, block/nbd (both forms of a name)."""
    parts = urlsplit(url)
    if parts.netloc:
        return Place(None, parts.hostname or "", parts.port or _PORT, unquote(parts.path[1:]), dirty)
    where, _, export = url.removeprefix("nbd:").partition(":exportname=")
    if where.startswith("unix:"):
        return Place(where.removeprefix("unix:"), "", 0, export, dirty)
    host, _, port = where.rpartition(":")
    return Place(None, host, int(port), export, dirty)


class _Dialing(Factory):
    noisy = False

    def __init__(self, negotiation: Negotiation) -> None:
        self._negotiation = negotiation

    def buildProtocol(self, addr: IAddress | None) -> NbdConnection:
        return NbdConnection(self._negotiation)


@define(eq=False)
class _Queue:
    """The connections to one export.

    :ivar live: how many there are, those that are being made included.
    :ivar limit: how many there may be; one, as long as the server did not say more.
    """

    live: int = 0
    limit: int = 1
    export: Export | None = None
    idle: list[tuple[NbdConnection, IDelayedCall]] = field(factory=list)
    waiting: deque[Deferred[None]] = field(factory=deque)

    def wake(self) -> None:
        """Let the next one try again."""
        if self.waiting:
            self.waiting.popleft().callback(None)


class NbdPool:
    """Connections by where they lead."""

    def __init__(self, dialer: Dialer, clock: IReactorTime) -> None:
        self._dialer = dialer
        self._clock = clock
        self._queues: dict[Place, _Queue] = {}

    def export(self, place: Place) -> Export | None:
        """What the server says of an export to which there is a connection."""
        queue = self._queues.get(place)
        return None if queue is None else queue.export

    async def take(self, place: Place) -> NbdConnection:
        """Return a connection that nobody else uses; wait for it if need be.

        :raises gateway.errors.GatewayError: it cannot be made, or the policy forbids it.
        """
        give_up = self._clock.seconds() + _PATIENCE
        while True:
            queue = self._queues.setdefault(place, _Queue())
            if queue.idle:
                connection, timer = queue.idle.pop()
                timer.cancel()
                return connection
            if queue.live < queue.limit:
                return await self._open(place, queue)
            turn: Deferred[None] = Deferred(queue.waiting.remove)
            queue.waiting.append(turn)
            try:
                await turn.addTimeout(max(0.0, give_up - self._clock.seconds()), self._clock)
            except defer.TimeoutError:
                raise errors.Unavailable("The image is in use, try again later", reason="busy") from None

    async def _open(self, place: Place, queue: _Queue) -> NbdConnection:
        queue.live += 1
        connection: NbdConnection | None = None
        opened = False
        try:
            connection = await self._dial(place)
            connection.gone = partial(self._gone, place, queue, connection)
            connection.idle = partial(self._put, queue, connection)
            try:
                export = await connection.ready.addTimeout(_HANDSHAKE, self._clock)
            except defer.TimeoutError:
                raise errors.UpstreamTimeout(reason="silent") from None
            opened = True
        finally:
            if connection is None:
                self._gone(place, queue)
            elif not opened:
                connection.abort()
        queue.export = export
        if export.flags & Flags.MULTI_CONN and queue.limit == 1:
            queue.limit = _MANY
            for _ in range(_MANY - 1):
                queue.wake()
        return connection

    async def _dial(self, place: Place) -> NbdConnection:
        factory = _Dialing(Negotiation(place.export, dirty=place.dirty))
        if place.socket is not None:
            made = await self._dialer.connect_unix(place.socket, factory)
        else:
            made = await self._dialer.connect("nbd", place.host, place.port, factory)
        assert isinstance(made, NbdConnection)  # noqa: S101 (for the type checker: our factory)
        return made

    def _put(self, queue: _Queue, connection: NbdConnection) -> None:
        queue.idle.append((connection, self._clock.callLater(_IDLE, connection.leave)))
        queue.wake()

    def _gone(self, place: Place, queue: _Queue, connection: NbdConnection | None = None) -> None:
        for idle in [it for it in queue.idle if it[0] is connection]:
            queue.idle.remove(idle)
            if idle[1].active():
                idle[1].cancel()
        queue.live -= 1
        if not queue.live:
            # The next server there may be another one.
            queue.limit, queue.export = 1, None
        queue.wake()
        if not queue.live and not queue.waiting and self._queues.get(place) is queue:
            del self._queues[place]

    def close(self) -> None:
        """Close every idle connection."""
        for queue in [*self._queues.values()]:
            for connection, _ in [*queue.idle]:
                connection.leave()
