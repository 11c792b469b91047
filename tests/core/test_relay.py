from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core import relay


class Source:
    """A body the test speaks for.

    :ivar running: whether its reader wants it.
    """

    def __init__(self) -> None:
        self.running = False
        self.stopped = False
        self.queue: list[bytes] = []
        self.delivered: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self.sink: Callable[[bytes], None] | None = None
        self.over = False

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self.sink = sink
        self.resumeProducing()
        return self.delivered

    def send(self, *pieces: bytes) -> None:
        self.queue += pieces
        while self.queue and self.running and self.sink is not None:
            self.sink(self.queue.pop(0))
        if self.over and not self.queue and self.running and not self.delivered.called:
            self.delivered.callback(None)

    def end(self) -> None:
        self.over = True
        self.send()

    def pauseProducing(self) -> None:
        self.running = False

    def resumeProducing(self) -> None:
        self.running = True
        self.send()

    def stopProducing(self) -> None:
        self.running = False
        self.stopped = True


class Sink:
    """Takes a body.

    :ivar producer: who may be paused, None when nobody.
    """

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.producer: Any = None

    def write(self, data: bytes) -> None:
        self.got.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None and streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None


class BodyTests(SynchronousTestCase):
    """A body on its way through."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.source, self.sink = Source(), Sink()

    def start(self, **how: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(relay.body(self.source, self.sink, self.clock, **how))

    def clean(self) -> None:
        self.assertIsNone(self.sink.producer)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_moves(self) -> None:
        """Every byte goes through in order, is counted before it is written, and nothing stays."""
        counted: list[tuple[int, int]] = []
        result = self.start(count=lambda amount: counted.append((amount, len(self.sink.got))), stall=60)
        self.source.send(b"he", b"llo")
        self.assertNoResult(result)
        self.source.end()
        self.successResultOf(result)
        self.assertEqual((self.sink.got, counted), ([b"he", b"llo"], [(2, 0), (3, 1)]))
        self.clean()

    def test_pauses(self) -> None:
        """A sink that is full pauses the source, so that nothing piles up in between."""
        result = self.start()
        self.sink.producer.pauseProducing()
        self.assertFalse(self.source.running)
        self.source.send(b"hello")
        self.assertEqual(self.sink.got, [])
        self.sink.producer.resumeProducing()
        self.source.end()
        self.successResultOf(result)
        self.assertEqual(self.sink.got, [b"hello"])

    def test_source_fails(self) -> None:
        """A source that ends early fails the whole, whatever came before."""
        result = self.start(stall=60)
        self.source.send(b"hel")
        self.source.delivered.errback(errors.UpstreamFailed())
        self.failureResultOf(result, errors.UpstreamFailed)
        self.clean()

    def test_cancelled(self) -> None:
        """Cancelling stops the source and leaves nothing."""
        result = self.start(stall=60, bucket=relay.Bucket(1, self.clock))
        self.source.send(b"hello")
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(self.source.stopped)
        self.clean()

    def test_stall(self) -> None:
        """A source that is wanted and silent for too long is stopped."""
        result = self.start(stall=60)
        self.clock.advance(59)
        self.source.send(b"a")
        self.clock.advance(60)
        self.assertNoResult(result)
        self.clock.advance(60)
        self.assertEqual(self.failureResultOf(result, errors.UpstreamTimeout).value.reason, "stalled")
        self.assertTrue(self.source.stopped)
        self.clean()

    def test_slow_sink(self) -> None:
        """While the sink is full the source is not to blame."""
        result = self.start(stall=60)
        self.sink.producer.pauseProducing()
        self.clock.pump([60] * 10)
        self.assertNoResult(result)
        self.sink.producer.resumeProducing()
        self.clock.pump([60] * 2)
        self.failureResultOf(result, errors.UpstreamTimeout)

    def test_rate(self) -> None:
        """A rate holds over time, and a resting source is not woken by its sink, nor called stalled."""
        result = self.start(bucket=relay.Bucket(1000, self.clock), stall=2)
        self.source.send(*[bytes(500)] * 20)
        for second in range(1, 10):
            self.clock.pump([0.1] * 10)
            self.sink.producer.pauseProducing()
            self.sink.producer.resumeProducing()
            self.assertLessEqual(len(b"".join(self.sink.got)), 1000 * second + 500)
            self.assertGreaterEqual(len(b"".join(self.sink.got)), 1000 * second - 500)
        while self.source.queue or not self.source.running:
            self.clock.advance(0.1)
        self.source.end()
        self.successResultOf(result)
        self.clean()

    def test_no_needless_rest(self) -> None:
        """A rate that is not reached pauses nobody."""
        self.start(bucket=relay.Bucket(1e9, self.clock))
        self.source.send(b"hello")
        self.assertTrue(self.source.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fair(self) -> None:
        """Two transfers that share a bucket get equal turns, and together no more than its rate."""
        bucket = relay.Bucket(1000, self.clock)
        other, theirs = Source(), Sink()
        self.start(bucket=bucket)
        Deferred.fromCoroutine(relay.body(other, theirs, self.clock, bucket=bucket))
        self.source.send(*[bytes(100)] * 1000)
        other.send(*[bytes(100)] * 1000)
        self.clock.pump([0.01] * 2000)
        self.assertLessEqual(abs(len(self.sink.got) - len(theirs.got)), 1)
        self.assertLessEqual(abs(len(self.sink.got) + len(theirs.got) - 200), 4)

    def test_stopped(self) -> None:
        """A sink that is gone for good stops the source, and its rest is over."""
        self.start(bucket=relay.Bucket(1, self.clock))
        self.source.send(b"hello")
        self.sink.producer.stopProducing()
        self.assertTrue(self.source.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SegmentsTests(SynchronousTestCase):
    """A body cut into pieces of one size."""

    def collect(self, source: Source, size: int, into: list[bytes]) -> Deferred[None]:
        async def run() -> None:
            async for segment in relay.Segments(source, size):
                into.append(segment)

        return Deferred.fromCoroutine(run())

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=20), max_size=12), st.integers(1, 25))
    def test_sizes(self, pieces: list[bytes], size: int) -> None:
        """Whatever the pieces, all segments but the last have the size, and nothing is lost."""
        for at_once in (False, True):
            source, got = Source(), list[bytes]()
            result = self.collect(source, size, got)
            if at_once:
                source.send(*pieces)
            else:
                for piece in pieces:
                    source.send(piece)
            source.end()
            self.successResultOf(result)
            whole = b"".join(pieces)
            self.assertEqual(got, [whole[at : at + size] for at in range(0, len(whole), size)])

    def test_not_ahead(self) -> None:
        """The source waits while a segment is worked on."""
        source = Source()
        segments = relay.Segments(source, 4)
        first = Deferred.fromCoroutine(segments.__anext__())
        source.send(b"ab", b"cd", b"ef", b"gh")
        self.assertEqual(self.successResultOf(first), b"abcd")
        self.assertFalse(source.running)
        self.assertEqual(source.queue, [b"ef", b"gh"])
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(segments.__anext__())), b"efgh")
        self.assertFalse(source.running)

    def test_fails(self) -> None:
        """A source that ends early fails the iteration: the rest is no last segment."""
        source, got = Source(), list[bytes]()
        result = self.collect(source, 4, got)
        source.send(b"abcdef")
        source.delivered.errback(errors.UpstreamFailed())
        self.failureResultOf(result, errors.UpstreamFailed)
        self.assertEqual(got, [b"abcd"])

    def test_cancelled(self) -> None:
        """Cancelling stops the source."""
        source = Source()
        result = self.collect(source, 4, [])
        source.send(b"ab")
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(source.stopped)
        source.delivered.errback(errors.UpstreamFailed())
