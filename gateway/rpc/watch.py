"""The connection that events come by, made again and again as long as somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc.breaker import FACTOR, FIRST, LONGEST
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.connector import Connector
from gateway.wire.libvirt_schema import Procedure

#: Seconds: to look again while somebody else tries to connect; after which a connection was a good one.
_LOOK = 1.0
_GOOD = 10.0


class Watch:
    """Keeps one connection, for events only.

    :ivar events: told each event, its procedure and its values.
    :ivar up: told each connection when it is there; nothing is registered on it.
    :ivar down: told why it is gone, unless that was wanted.
    """

    log = Logger()

    def __init__(self, connector: Connector, clock: IReactorTime, *, readonly: bool) -> None:
        self.events: Callable[[Procedure, dict[str, Any]], object] = lambda procedure, values: None
        self.up: Callable[[LibvirtConnection], object] = lambda connection: None
        self.down: Callable[[str], object] = lambda reason: None
        self._connector = connector
        self._clock = clock
        self._readonly = readonly
        self._running: Deferred[None] | None = None
        self._connection: LibvirtConnection | None = None
        self._leaving: set[LibvirtConnection] = set()
        self._left: Deferred[None] | None = None

    @property
    def alive(self) -> bool:
        """Events come."""
        return self._connection is not None

    def start(self) -> None:
        """Keep a connection from now on."""
        if self._running is None:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._over)

    def stop(self) -> Deferred[None]:
        """Keep none; fire when none is left."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        if not self._leaving:
            return succeed(None)
        if self._left is None:
            self._left = Deferred()
        return self._left

    async def _run(self) -> None:
        pause = 0.0
        while True:
            await self._turn(pause)
            try:
                connection = await self._connector.connect(readonly=self._readonly)
            except errors.GatewayError:
                continue
            began = self._clock.seconds()
            self.down(await self._use(connection))
            lived = self._clock.seconds() - began
            pause = 0.0 if lived > _GOOD else min(LONGEST, max(FIRST, pause * FACTOR))

    async def _turn(self, pause: float) -> None:
        """Wait for *pause*, and until the next attempt may be made."""
        while wait := max(pause, min(_LOOK, self._connector.breaker.wait())):
            await deferLater(self._clock, wait)
            pause = 0.0

    async def _use(self, connection: LibvirtConnection) -> str:
        lost: Deferred[str] = Deferred()
        connection.lost = lost.callback
        connection.event = self._told
        self._connection = connection
        self.up(connection)
        try:
            reason = await lost
        except CancelledError:
            connection.event = lambda procedure, values: None
            connection.lost = lambda reason: self._gone(connection)
            self._leaving.add(connection)
            connection.abort("unwatched")
            raise
        finally:
            self._connection = None
        self._connector.broke(reason)
        return reason

    def _told(self, procedure: Procedure, values: dict[str, Any]) -> None:
        self.events(procedure, values)

    def _gone(self, connection: LibvirtConnection) -> None:
        self._leaving.discard(connection)
        if not self._leaving and self._left is not None:
            left, self._left = self._left, None
            left.callback(None)

    def _over(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("watching events went wrong", failure)
