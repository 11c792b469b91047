"""Streams to one hypervisor, each on a connection of its own.

What is not read of a stream stops everything else on its connection, keepalive included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attrs import define
from twisted.internet import defer
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.connector import Connector
from gateway.rpc.stream import Stream
from gateway.wire.libvirt_schema import Procedure

#: Streams at a time, and how many of them one principal may have.
MOST, EACH = 64, 48
#: Seconds until a stream is open, once there is a connection.
_PATIENCE = 30.0


@define(eq=False)
class _Place:
    """One stream, from when it is asked for until its connection is gone."""

    principal: str
    connection: LibvirtConnection | None = None


class Streams:
    """Opens streams.

    :ivar wrote: called when a stream that is written to begins, and when it is over.
    """

    def __init__(self, connector: Connector, clock: IReactorTime) -> None:
        self.wrote: Callable[[], object] = lambda: None
        self._connector = connector
        self._clock = clock
        self._places: set[_Place] = set()
        self._stopped: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._places)

    async def open(
        self, procedure: Procedure, arguments: Mapping[str, object], principal: str, *, readonly: bool
    ) -> tuple[dict[str, Any], Stream]:
        """Call *procedure*; return its results and the stream, which closes its connection by ``close``.

        :raises gateway.errors.Busy: there are too many.
        :raises gateway.errors.TargetDown: the connection cannot be made.
        :raises gateway.errors.GatewayError: the call fails.
        """
        mine = sum(place.principal == principal for place in self._places)
        if len(self._places) >= MOST or mine >= EACH:
            raise errors.Busy("There are too many streams to this hypervisor")
        self._connector.breaker.check()
        place = _Place(principal)
        self._places.add(place)
        begun = False
        try:
            # Without keepalive: a stream may have to wait for whoever reads it.
            try:
                connection = await self._connector.connect(readonly=readonly, keepalive=False)
            except errors.GatewayError as error:
                raise errors.TargetDown(reason=error.reason) from error
            place.connection = connection
            connection.lost = partial(self._lost, place, procedure.stream == "w")
            if procedure.stream == "w":
                self.wrote()
            opened = connection.stream(procedure, arguments)
            try:
                result = await opened.addTimeout(_PATIENCE, self._clock)
            except defer.TimeoutError:
                raise errors.DeadlinePassed(maybe_executed=procedure.writes == "W") from None
            begun = True
        finally:
            if place.connection is None:
                self._forget(place)
            elif not begun:
                place.connection.abort("unused")
        return result

    def stop(self) -> Deferred[None]:
        """Cut all of them; fire when their connections are gone."""
        if not self._places:
            return succeed(None)
        stopped = self._stopped = Deferred()
        for place in [*self._places]:
            if place.connection is not None:
                place.connection.abort("stopped")
        return stopped

    def _lost(self, place: _Place, writes: bool, reason: str) -> None:
        if writes:
            self.wrote()
        self._forget(place)

    def _forget(self, place: _Place) -> None:
        self._places.discard(place)
        if not self._places and self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)
