"""One hypervisor, as the rest of the gateway sees it: calls, streams, events, and how it is.

Calls go through four pools of connections at most. What libvirtd serves by its priority workers has one of
its own, so that it passes while all else hangs; what shall only read has connections that the daemon itself
keeps from writing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.rpc.answer import packed
from gateway.rpc.breaker import Breaker
from gateway.rpc.cache import Cache
from gateway.rpc.call_classes import CLASSES, CallClass
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.connector import Connector, Dial
from gateway.rpc.job import Job
from gateway.rpc.pool import Limits, Pool
from gateway.rpc.stream import Stream
from gateway.rpc.streams import Streams
from gateway.rpc.watch import Watch
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure, procedure
from gateway.wire.libvirt_url import LibvirtUrl

_NOTHING: Mapping[str, object] = MappingProxyType({})


class Target:
    """One hypervisor; nothing is connected before somebody asks for something.

    :param dial: brings connections that are not opened yet.
    :param readonly: all calls go over connections that can only read.
    :param window: calls in work on one connection.
    :param stream_limit: bytes of one stream; None for any number.
    :param chance: gives numbers from 0 to 1.
    :param attempted: told how each attempt to connect ended, by a word (empty: well), and its seconds.
    :ivar renewed: called when :attr:`generation` was raised.
    """

    def __init__(
        self,
        name: str,
        url: LibvirtUrl,
        *,
        dial: Dial,
        clock: IReactorTime,
        readonly: bool = False,
        window: int = 4,
        stream_limit: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        chance: Callable[[], float] = random.random,
        attempted: Callable[[str, float], object] = lambda reason, seconds: None,
    ) -> None:
        self.name = name
        self.url = url
        self.readonly = readonly
        self.stream_limit = stream_limit
        self._clock = clock
        self._limits = evolve(limits, window=window)
        self._breaker = Breaker(clock, chance)
        self._connector = Connector(name, url.name, dial, clock, self._breaker)
        self._connector.attempted = attempted
        self._cache: Cache[Job] = Cache(clock)
        self._pools: dict[tuple[bool, bool], Pool] = {}
        self._streams = Streams(self._connector, clock)
        self._watch = Watch(self._connector, clock, readonly=readonly)
        self._stopped = False
        self._breaker.changed = self._pump
        self._connector.renewed = self._renewed
        self.renewed: Callable[[], object] = lambda: None
        self._streams.wrote = self._cache.clear
        self._watch.events = self._event
        self.events: Callable[[Procedure, dict[str, Any]], object] = lambda procedure, values: None

    # -- how it is -------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``up`` there are connections, ``connecting``, ``down`` it failed, ``idle`` nobody wants any."""
        if self._watch.alive or len(self._streams) or any(it.connections for it in self._pools.values()):
            return "up"
        if self._connector.connecting:
            return "connecting"
        return "down" if self._breaker.failures else "idle"

    @property
    def latency(self) -> float:
        """Seconds from a read to its answer: the mean of the last ones; 0 when there was none."""
        means = [pool.latency for pool in self._pools.values() if pool.latency]
        return sum(means) / len(means) if means else 0.0

    @property
    def version(self) -> int | None:
        """Of its libvirt, as that counts: 9.0.0 is 9000000."""
        return self._connector.version

    @property
    def generation(self) -> int:
        """Raised with each first connection after others were lost; 0 before the first."""
        return self._connector.generation

    def describe(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        pools = self._pools.values()
        wait = self._breaker.wait()
        return {
            "target": self.name,
            "state": self.state,
            "latency": self.latency,
            "in_flight": sum(pool.in_flight for pool in pools),
            "queued": sum(pool.queued for pool in pools),
            "connections": sum(pool.connections for pool in pools),
            "streams": len(self._streams),
            "watched": self._watch.alive,
            "error": self._breaker.reason,
            "failures": self._breaker.failures,
            "retry_after": wait if wait < inf else 0.0,
            "generation": self.generation,
            "version": self.version,
            "readonly": self.readonly,
        }

    # -- calls -----------------------------------------------------------------------------

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object] = _NOTHING,
        *,
        principal: str = "",
        deadline: float | None = None,
        readonly: bool = False,
        late: Callable[[Any], object] | None = None,
    ) -> dict[str, Any]:
        """Call the procedure *name*; return its results; others have what is in them, too.

        :param principal: who wants it; they take turns.
        :param deadline: seconds to wait; by default what calls of its class may take.
        :param readonly: the daemon shall refuse it if it writes.
        :param late: told what a write gave, results or an error, that was cancelled or had passed its
            deadline by then.
        :raises gateway.wire.libvirt_error.LibvirtError: the hypervisor refuses.
        :raises gateway.errors.BadArguments: there is no such procedure, or it takes other arguments.
        :raises gateway.errors.Busy, gateway.errors.TargetDown: it was not sent.
        :raises gateway.errors.DeadlinePassed, gateway.errors.Interrupted: it may have been done.
        """
        called, kind = _known(name)
        if kind.problem:
            raise errors.BadArguments("procedure", kind.problem)
        asked = self._submit(called, kind, arguments, principal, deadline, readonly, late=late)
        result: dict[str, Any] = await asked
        return result

    async def connection(self, *, readonly: bool = False) -> LibvirtConnection:
        """A connection that is the caller's own, opened and to be closed by it; no call of ours goes there.

        :raises gateway.errors.TargetDown: there cannot be one.
        """
        self._check()
        self._breaker.check()
        try:
            return await self._connector.connect(readonly=readonly or self.readonly)
        except LibvirtError:
            raise
        except errors.GatewayError as error:
            raise errors.TargetDown(reason=error.reason) from error

    async def descriptor(
        self,
        name: str,
        arguments: Mapping[str, object] = _NOTHING,
        *,
        principal: str = "",
        deadline: float | None = None,
    ) -> int:
        """Call the procedure *name*, which passes one descriptor; that is the caller's to close.

        Raises as :meth:`call`, and :class:`gateway.errors.NotImplementedHere` when the way to the hypervisor
        cannot bring descriptors.
        """
        called, kind = _known(name)
        if self.url.transport != "unix":
            raise errors.NotImplementedHere("Only a hypervisor on this machine can pass a descriptor")
        got: int = await self._submit(called, kind, arguments, principal, deadline, False, descriptor=True)
        return got

    async def stream(
        self,
        name: str,
        arguments: Mapping[str, object] = _NOTHING,
        *,
        principal: str = "",
        readonly: bool = False,
    ) -> tuple[dict[str, Any], Stream]:
        """Call the procedure *name*, which opens a stream; return its results and the stream.

        Raises as :meth:`call`, and :class:`gateway.errors.TooLarge` when its length is known and above the
        limit.
        """
        called, _ = _known(name)
        if not called.stream:
            raise errors.BadArguments("procedure", f"{name} opens no stream")
        length = arguments.get("length")
        if self.stream_limit is not None and isinstance(length, int) and length > self.stream_limit:
            raise errors.TooLarge(limit=self.stream_limit)
        packed(called, arguments)
        self._check()
        return await self._streams.open(called, arguments, principal, readonly=readonly or self.readonly)

    # -- events ----------------------------------------------------------------------------

    def watch(
        self,
        events: Callable[[Procedure, dict[str, Any]], object],
        up: Callable[[LibvirtConnection], object],
        down: Callable[[str], object],
    ) -> None:
        """Keep a connection for events from now on.

        :param events: told each event: its procedure, and its values.
        :param up: told each connection when it is there; events are to be registered on it.
        :param down: told the reason, a word, when it is lost.
        """
        self.events = events
        self._watch.up, self._watch.down = up, down
        if not self._stopped:
            self._watch.start()

    def unwatch(self) -> None:
        """Keep no connection for events any more."""
        self._watch.stop()

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Be there for calls; nothing is connected yet."""
        self._stopped = False

    def stop(self) -> Deferred[None]:
        """Close all connections; fire when they are closed."""
        self._stopped = True
        self._cache.stop()
        parts = [self._watch.stop(), self._streams.stop(), *(pool.stop() for pool in self._pools.values())]
        self._pools = {}
        return gatherResults(parts).addCallback(lambda _: None)

    # -- inside ----------------------------------------------------------------------------

    def _renewed(self) -> None:
        self._cache.clear()
        self.renewed()

    def _check(self) -> None:
        if self._stopped:
            raise errors.TargetDown(reason="stopped")

    def _submit(
        self,
        called: Procedure,
        kind: CallClass,
        arguments: Mapping[str, object],
        principal: str,
        deadline: float | None,
        readonly: bool,
        *,
        descriptor: bool = False,
        late: Callable[[Any], object] | None = None,
    ) -> Deferred[Any]:
        payload = packed(called, arguments)
        if self._stopped:
            self._check()
        if deadline is not None and deadline <= 0:
            raise errors.DeadlinePassed(maybe_executed=False)
        readonly = readonly or self.readonly
        key = (called.name, readonly, payload)
        job: Job | None = None
        if kind.read:
            if kind.kept and (kept := self._cache.find(key)) is not None:
                return succeed(kept)
            job = self._cache.flight(key)
        if job is None or job.overdue:
            job = Job(called, payload, kind.read, descriptor, key)
            if kind.read:
                self._cache.begin(key, job)
            elif late is not None:
                job.late = late
        due = self._clock.seconds() + (kind.patience if deadline is None else deadline)
        pool = self._pools.get((readonly, called.priority)) or self._pool(readonly, called.priority)
        try:
            return pool.submit(job, principal, due)
        except errors.GatewayError:
            if not job.waiters:
                self._cache.forget(key, job)
            raise

    def _pool(self, readonly: bool, priority: bool) -> Pool:
        connect = partial(self._connector.connect, readonly=readonly)
        pool = self._pools[readonly, priority] = Pool(connect, self._breaker, self._clock, self._limits)
        pool.began, pool.ended = self._began, self._ended
        pool.broke = self._connector.broke
        return pool

    def _pump(self) -> None:
        for pool in [*self._pools.values()]:
            pool.pump()

    def _began(self, job: Job) -> None:
        if not job.read:
            self._cache.clear()
        elif self._cache.flight(job.key) is None:
            # What changed while it waited for its turn does not matter to it.
            self._cache.begin(job.key, job)

    def _ended(self, job: Job, result: Any) -> None:
        if not job.read:
            self._cache.clear()
        elif result is None:
            self._cache.forget(job.key, job)
        else:
            kind = CLASSES[job.procedure.name]
            self._cache.end(job.key, job, result, kind.kept, kind.passing)

    def _event(self, told: Procedure, values: dict[str, Any]) -> None:
        self._cache.clear_passing()
        self.events(told, values)


def _known(name: str) -> tuple[Procedure, CallClass]:
    """:raises gateway.errors.BadArguments: there is no such procedure."""
    try:
        return procedure(name), CLASSES[name]
    except KeyError:
        raise errors.BadArguments("procedure", "there is no such procedure") from None
