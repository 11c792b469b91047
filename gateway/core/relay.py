"""Moving the bytes of one body from where they come to where they go.

The sink pauses the source, a rate may pause it too, and nothing is kept in between: what is in
memory per transfer is what one read and one socket buffer hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from gateway import errors


class Source(Protocol):
    """Where a body comes from: a push producer that delivers to one sink."""

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


class Sink(Protocol):
    """Where a body goes: an ``IConsumer``."""

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
class _Valve:
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

    def wait(self, seconds: float) -> None:
        """Let nothing pass for *seconds*."""
        if self._rest is None:
            self._source.pauseProducing()
            self._rest = self._clock.callLater(seconds, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if self.open:
            self._source.resumeProducing()

    def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None


async def body(
    source: Source,
    sink: Sink,
    clock: IReactorTime,
    *,
    count: Callable[[int], None] = lambda amount: None,
    bucket: Bucket | None = None,
    stall: float | None = None,
) -> None:
    """Move a whole body.

    :param count: told the size of every piece, before it is written.
    :param stall: seconds the source may be silent while it is wanted; None for ever.
    :raises gateway.errors.UpstreamTimeout: the source stalled.
    :raises gateway.errors.GatewayError: whatever ended the source early.
    """
    valve = _Valve(source, clock)
    moved = 0

    def write(piece: bytes) -> None:
        nonlocal moved
        moved += len(piece)
        count(len(piece))
        sink.write(piece)
        if bucket is not None and (delay := bucket.take(len(piece))) > 0.01:
            valve.wait(delay)

    sink.registerProducer(valve, True)
    delivered = source.deliver(write)
    stalled = False
    timer: IDelayedCall | None = None

    def watch(mark: int) -> None:
        nonlocal timer, stalled
        if valve.open and mark == moved:
            stalled = True
            delivered.cancel()
        else:
            timer = clock.callLater(stall or 0, watch, moved if valve.open else -1)

    if stall is not None:
        timer = clock.callLater(stall, watch, 0)
    try:
        await delivered
    except CancelledError:
        if stalled:
            raise errors.UpstreamTimeout(reason="stalled") from None
        raise
    finally:
        valve.close()
        if timer is not None and timer.active():
            timer.cancel()
        sink.unregisterProducer()


__all__ = ["Bucket", "Sink", "Source", "body"]
