"""A stream of a hypervisor without the hypervisor: the test says what comes, and sees what was told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from gateway import errors


class FakeStream:
    """Both directions of one stream, with the manners of :class:`gateway.rpc.stream.Stream`.

    :ivar told: what was written.
    :ivar flowing: whether somebody reads.
    :ivar finished: our side said that it was all.
    :ivar over: why there is nothing more, or empty.
    :ivar closed: the connection was let go of.
    :ivar confirms: a finish is confirmed at once.
    """

    def __init__(self, *says: bytes, ends: bool = False) -> None:
        self.told = bytearray()
        self.flowing = True
        self.finished = False
        self.closed = False
        self.confirms = True
        self.over = ""
        self._says = list(says)
        self._ends = ends
        self._sink: Callable[[bytes], object] | None = None
        self._waiting: list[Deferred[None]] = []
        self._failure: errors.GatewayError | None = None
        self._watchers: list[Callable[[str], object]] = []
        self._producer: Any = None

    # -- the interface ---------------------------------------------------------------------

    def deliver(self, sink: Callable[[bytes], object]) -> Deferred[None]:
        done = self._done()
        if self._failure is None:
            self._sink = sink
            self.resumeProducing()
        return done

    def pauseProducing(self) -> None:
        self.flowing = False

    def resumeProducing(self) -> None:
        self.flowing = True
        self._go()

    def stopProducing(self) -> None:
        self.abort()

    def write(self, data: bytes) -> None:
        if not self.over and not self.finished:
            self.told += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.over:
            producer.stopProducing()
        else:
            self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def finish(self) -> Deferred[None]:
        done = self._done()
        if not self.over:
            self.finished = True
            if self.confirms:
                self.confirm()
        return done

    def abort(self) -> None:
        self.breaks(errors.Interrupted(maybe_executed=True), "aborted")

    def close(self) -> None:
        self.abort()
        self.closed = True

    def when_over(self, watcher: Callable[[str], object]) -> None:
        if self.over:
            watcher(self.over)
        else:
            self._watchers.append(watcher)

    # -- the hypervisor --------------------------------------------------------------------

    def says(self, data: bytes) -> None:
        """Let *data* come, once somebody reads."""
        self._says.append(data)
        self._go()

    def hangs_up(self) -> None:
        """Nothing comes any more."""
        self._ends = True
        self._go()

    def confirm(self) -> None:
        """All that was told is stored."""
        self._end("finished")

    def breaks(self, failure: errors.GatewayError, reason: str = "refused") -> None:
        """The stream ends before its end."""
        if not self.over:
            self._failure = failure
            self._end(reason)

    def full(self, full: bool) -> None:
        """Take nothing more for now, or again."""
        if full:
            self._producer.pauseProducing()
        else:
            self._producer.resumeProducing()

    def _go(self) -> None:
        while self._says and self.flowing and self._sink is not None and not self.over:
            self._sink(self._says.pop(0))
        if self._ends and self.flowing and not self._says and self._sink is not None and not self.over:
            self._end("finished")

    def _done(self) -> Deferred[None]:
        if not self.over:
            self._waiting.append(Deferred(lambda _: self.abort()))
            return self._waiting[-1]
        return succeed(None) if self._failure is None else fail(self._failure)

    def _end(self, reason: str) -> None:
        self.over = reason
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if self._failure is None:
                deferred.callback(None)
            else:
                deferred.errback(self._failure)
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher(reason)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
