"""Moving the bytes of one body from where they come to where they go.

The sink pauses the source, a rate may pause it too, and nothing is kept in between: what is in
memory per transfer is what one read and one socket buffer hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.fasttls import READ
from gateway.core.pump import WORTH, Pump

#: Seconds; for less than a turn or two of the reactor no source is paused.
_SHORTEST_REST = 0.01


class Source(Protocol):
    """Where a body comes from: a push producer that delivers to one sink.

    One that comes from a connection has ``tap() -> Tap | None`` besides: where what has not arrived yet
    can be taken from; see :mod:`gateway.core.pump`.
    """

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


class Sink(Protocol):
    """Where a body goes: an ``IConsumer``.

    One that can be filled without a copy has ``vessel() -> Vessel | None`` besides: None when it cannot,
    or not yet.
    """

    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


class Bucket:
    """A share of the network: tokens are bytes, and come at a steady rate.

    Several transfers may take from one bucket; each waits for what it took too much, so that
    they get equal turns.

    :param rate: bytes per second.
    """

    def __init__(self, rate: float, clock: IReactorTime) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock.seconds()

    def take(self, amount: int) -> float:
        """Take *amount* bytes; return the seconds to wait before the next."""
        now = self._clock.seconds()
        self._free_at = max(self._free_at, now) + amount / self._rate
        return self._free_at - now


@implementer(IPushProducer)
class Valve:
    """Lets the source run only while the sink takes and no rate is exceeded."""

    def __init__(self, source: Source, clock: IReactorTime) -> None:
        self._source = source
        self._clock = clock
        self._full = False
        self._rest: IDelayedCall | None = None

    @property
    def open(self) -> bool:
        return not self._full and self._rest is None

    def pauseProducing(self) -> None:
        self._full = True
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        if self.open:
            self._source.resumeProducing()

    def stopProducing(self) -> None:
        self.close()
        self._source.stopProducing()

    def take(self, bucket: Bucket, amount: int) -> None:
        """Account for *amount* bytes; let nothing pass until *bucket* has them."""
        delay = bucket.take(amount)
        if delay > _SHORTEST_REST and self._rest is None:
            self._source.pauseProducing()
            self._rest = self._clock.callLater(delay, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if self.open:
            self._source.resumeProducing()

    def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None


class _Watch:
    """Cancels a delivery whose source says nothing while it is wanted.

    :param seconds: from one look to the next.
    :param moved: how many bytes went by so far.
    :ivar stalled: that was done.
    """

    def __init__(
        self,
        seconds: float,
        clock: IReactorTime,
        valve: Valve,
        delivered: Deferred[None],
        moved: Callable[[], int],
    ) -> None:
        self.stalled = False
        self._seconds = seconds
        self._clock = clock
        self._valve = valve
        self._delivered = delivered
        self._moved = moved
        self._timer: IDelayedCall | None = clock.callLater(seconds, self._look, 0)

    def _look(self, mark: int) -> None:
        self._timer = None
        moved = self._moved()
        if self._valve.open and mark == moved:
            self.stalled = True
            self._delivered.cancel()
        else:
            self._timer = self._clock.callLater(self._seconds, self._look, moved if self._valve.open else -1)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def body(
    source: Source,
    sink: Sink,
    clock: IReactorTime,
    *,
    count: Callable[[int], None] = lambda amount: None,
    begun: Callable[[], None] = lambda: None,
    bucket: Bucket | None = None,
    stall: float | None = None,
) -> None:
    """Move a whole body.

    :param count: told the size of every piece, before it is written.
    :param begun: called when all that had arrived already went by.
    :param stall: seconds the source may be silent while it is wanted; None for ever.
    :raises gateway.errors.UpstreamTimeout: the source stalled.
    :raises gateway.errors.GatewayError: whatever ended the source early.
    """
    valve = Valve(source, clock)
    moved = 0
    pump: Pump | None = None

    def write(piece: bytes) -> None:
        passing(len(piece))
        sink.write(piece)
        passed(len(piece))
        shorten()

    def passing(amount: int) -> None:
        nonlocal moved
        moved += amount
        count(amount)

    def passed(amount: int) -> None:
        if bucket is not None:
            valve.take(bucket, amount)

    def bypassed(amount: int) -> None:
        passing(amount)
        passed(amount)

    def shorten() -> None:
        """Take the short way as soon as both ends offer it."""
        nonlocal pump
        if pump is None and ends is not None:
            tap = ends[0].tap()
            if tap is not None and tap.left() >= WORTH and (vessel := ends[1].vessel()) is not None:
                # With a rate, no more is taken at once than the ordinary way takes.
                pump = Pump(tap if bucket is None else evolve(tap, most=READ), vessel, bypassed)

    ends: tuple[Any, Any] | None = None
    if hasattr(source, "tap") and hasattr(sink, "vessel"):
        ends = (source, sink)
    sink.registerProducer(valve, True)
    delivered = source.deliver(write)
    begun()
    shorten()
    watch: _Watch | None = None
    if stall is not None and not delivered.called:
        watch = _Watch(stall, clock, valve, delivered, lambda: moved)
    try:
        await delivered
    except CancelledError:
        if watch is not None and watch.stalled:
            raise errors.UpstreamTimeout(reason="stalled") from None
        raise
    finally:
        valve.close()
        if pump is not None:
            pump.close()
        if watch is not None:
            watch.close()
        sink.unregisterProducer()


class Segments:
    """A body cut into pieces of one size, for sinks that take one piece at a time.

    The source runs ahead by one segment at most.

    :param size: bytes of a segment; the last one may be shorter.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._buffer = bytearray()
        self._waiting: Deferred[None] | None = None
        self._delivered: Deferred[None] | None = None
        self._ended = False
        self._failure: Failure | None = None

    def __aiter__(self) -> Segments:
        return self

    async def __anext__(self) -> bytes:
        if self._delivered is None:
            self._delivered = self._source.deliver(self._take)
            self._delivered.addCallbacks(self._end, self._fail)
        elif not self._ended and len(self._buffer) < self._size:
            self._source.resumeProducing()
        if not self._ended and len(self._buffer) < self._size:
            self._waiting = Deferred()
            try:
                await self._waiting
            except CancelledError:
                self._source.stopProducing()
                raise
        if self._failure is not None:
            self._failure.raiseException()
        if not self._buffer:
            raise StopAsyncIteration
        segment = bytes(self._buffer[: self._size])
        del self._buffer[: self._size]
        return segment

    def _take(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) >= self._size:
            self._source.pauseProducing()
            self._wake()

    def _end(self, _: object) -> None:
        self._ended = True
        self._wake()

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        self._end(None)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
