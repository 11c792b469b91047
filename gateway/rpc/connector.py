"""Makes connections to one hypervisor, and remembers how that went."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway import errors
from gateway.rpc.breaker import Breaker
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.upstream_login import log_in
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_url import LibvirtUrl

#: Brings a connection that is not opened yet; with the flag to where one can only read, if that is elsewhere.
Dial = Callable[[bool], Awaitable[LibvirtConnection]]

#: Seconds until a connection can be used, the greetings included.
PATIENCE = 15.0
_VERSION = procedure("CONNECT_GET_LIB_VERSION")


def dialing(
    connect: Callable[..., Awaitable[object]],
    url: LibvirtUrl,
    clock: IReactorTime,
    environment: Mapping[str, str] | None = None,
) -> Callable[[bool], Awaitable[LibvirtConnection]]:
    """How connections to *url* are made.

    :param connect: attaches a protocol, such as ``Transports.connect``.
    :param environment: ours by default; tells where credentials are.
    """

    async def dial(readonly: bool) -> LibvirtConnection:
        connection = LibvirtConnection(clock, tls=url.transport == "tls")
        connection.login = partial(
            log_in, url=url, environment=os.environ if environment is None else environment
        )
        await connect(url, connection, readonly=readonly)
        return connection

    return dial


class Connector:
    """Opens connections, as the breaker permits.

    :param opened: the name that the hypervisor is opened by.
    :ivar generation: raised when a connection is made after others were lost; 0 before the first.
    :ivar version: of libvirt on the other side, as it counts: 9.0.0 is 9000000; None when unknown.
    :ivar renewed: called when the generation was raised.
    :ivar attempted: told how each attempt ended, by a word (empty: well), and its seconds.
    """

    log = Logger()

    def __init__(self, target: str, opened: str, dial: Dial, clock: IReactorTime, breaker: Breaker) -> None:
        self.breaker = breaker
        self.generation = 0
        self.version: int | None = None
        self.connecting = 0
        self.renewed: Callable[[], object] = lambda: None
        self.attempted: Callable[[str, float], object] = lambda reason, seconds: None
        self._target = target
        self._opened = opened
        self._dial = dial
        self._clock = clock
        self._stale = True

    def broke(self, reason: str) -> None:
        """A connection was lost, and we did not want that."""
        self._stale = True
        self.breaker.reason = reason

    async def connect(self, *, readonly: bool, keepalive: bool = True) -> LibvirtConnection:
        """Make one more connection, now.

        :raises gateway.errors.GatewayError: it cannot be made.
        """
        begun, began = self.breaker.begin(), self._clock.seconds()
        self.connecting += 1
        work = Deferred.fromCoroutine(self._open(readonly, keepalive))
        reason: str | None = "internal"
        try:
            connection = await work.addTimeout(PATIENCE, self._clock)
            reason = ""
        except defer.TimeoutError:
            reason = "silent"
            raise errors.UpstreamTimeout(reason=reason) from None
        except defer.CancelledError:
            reason = None
            raise
        except errors.GatewayError as error:
            reason = error.reason
            raise
        finally:
            self.connecting -= 1
            if reason is not None:
                self.attempted(reason, self._clock.seconds() - began)
            if reason:
                self._failed(begun, reason)
            elif reason is None:
                self.breaker.dropped()
        if self._stale:
            self._stale = False
            self.generation += 1
            self.log.info(
                "target {target} is connected, generation {generation}",
                target=self._target,
                generation=self.generation,
            )
            self.renewed()
        self.breaker.succeeded()
        return connection

    def _failed(self, begun: int, reason: str) -> None:
        self.breaker.failed(begun, reason)
        # Once when it goes wrong, and once when it stays wrong.
        if self.breaker.failures == 1 or (self.breaker.open and self.breaker.wait() < inf):
            self.log.warn(
                "target {target} cannot be reached: {reason}, for the {failures}. time",
                target=self._target,
                reason=reason,
                failures=self.breaker.failures,
            )

    async def _open(self, readonly: bool, keepalive: bool) -> LibvirtConnection:
        connection = await self._dial(readonly)
        usable = False
        try:
            await connection.open(self._opened, readonly=readonly, keepalive=keepalive)
            if self._stale or self.version is None:
                try:
                    self.version = (await connection.call(_VERSION))["lib_ver"]
                except LibvirtError:
                    self.version = None
            usable = connection.alive
            if not usable:
                raise errors.Interrupted(maybe_executed=False)
        finally:
            if not usable:
                connection.abort("unused")
        return connection
