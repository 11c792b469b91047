"""Bodies from and to files: every byte in its place, bounded in memory, and no thread under a closed file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.fasttls import SLACK
from gateway.images.buffers import PIECE
from gateway.images.file_sink import FileSink
from gateway.images.file_source import FileSource
from gateway.images.open_file import OpenFile
from tests.images.stage import Lazy

DATA = os.urandom(7 * PIECE // 2 + 4321)
#: What a download and an upload may have in memory at once, beside one piece on its way.
BOUND = 2 * PIECE


class Upload:
    """A source that gives what is asked for, one piece each time, and minds whether it is paused."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes
        self.given = 0
        self.paused = False
        self.stopped = False
        self.sink: Callable[[bytes], None] = lambda data: None
        self.delivered: Deferred[None] = Deferred()

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self.sink = sink
        return self.delivered

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True

    def give(self) -> None:
        """Give the next piece; after the last, end."""
        size = self.sizes[self.given % len(self.sizes)]
        piece, self.data = self.data[:size], self.data[size:]
        if piece:
            self.given += 1
            self.sink(piece)
        if not self.data:
            self.delivered.callback(None)

    def fill(self) -> None:
        """Give until it is enough."""
        while not self.paused:
            self.give()


class FileCase(SynchronousTestCase):
    """A file, and threads that work when the test says so."""

    def setUp(self) -> None:
        self.threads = Lazy([], hold=True)
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"")
        self.before = len(os.listdir("/proc/self/fd"))

    def open(self) -> OpenFile:
        descriptor = os.open(self.path, os.O_RDWR)
        return OpenFile(self.threads, descriptor, self.path.stat().st_size)

    def work(self) -> None:
        """Let all threads do all they have to."""
        while self.threads.waiting:
            self.threads.run()

    def assert_closed(self) -> None:
        self.work()
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.before)


class SinkTests(FileCase):
    """Write-behind."""

    def begin(self, source: Upload, offset: int = 0) -> Deferred[None]:
        async def take() -> None:
            with self.open() as opened:
                await FileSink(opened, offset, len(source.data)).take(source, Clock())

        return Deferred.fromCoroutine(take())

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 6 * PIECE),
        st.integers(0, 10_000),
        st.lists(st.integers(1, 700_000), min_size=1, max_size=5),
        st.integers(0, 1 << 32),
    )
    def test_in_place(self, length: int, offset: int, sizes: list[int], seed: int) -> None:
        """In pieces of any size, with threads that take turns anyhow, all bytes go where they belong."""
        random = Random(seed)
        sizes = [max(size, length // 40 + 1) for size in sizes]
        data = (DATA * 3)[:length]
        self.path.write_bytes(b"")
        source = Upload(data, sizes)
        taking = self.begin(source, offset)
        while not taking.called:
            if self.threads.waiting and (source.paused or random.random() < 0.5):
                self.threads.run()
            elif not source.delivered.called and not source.paused:
                source.give()
            else:
                self.work()
        self.successResultOf(taking)
        self.assertTrue(self.path.read_bytes() == (bytes(offset) + data if data else b""))
        self.assert_closed()

    def test_bounded(self) -> None:
        """While the disk is busy the source is paused, and goes on when there is room again."""
        source = Upload(DATA * 4, [128 * 1024])
        taking = self.begin(source)
        source.fill()
        self.assertLessEqual(source.given * 128 * 1024, BOUND + 128 * 1024)
        given = source.given
        self.threads.run()
        self.assertFalse(source.paused)
        source.fill()
        self.assertGreater(source.given, given)
        taking.cancel()
        self.failureResultOf(taking)
        self.assertTrue(source.stopped)
        self.assert_closed()

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.integers(0, 1 << 32))
    def test_filled(self, offset: int, seed: int) -> None:
        """Filled without a copy, in portions of any size, all bytes go where they belong."""
        random = Random(seed)
        data = memoryview(DATA * 2)
        self.path.write_bytes(b"")
        source = Upload(bytes(data), [1])
        opened = self.open()
        sink = FileSink(opened, offset, len(data))
        taking = Deferred.fromCoroutine(sink.take(source, Clock()))
        vessel, at = sink.vessel(), 0
        assert vessel is not None
        while not taking.called:
            if source.paused or (self.threads.waiting and random.random() < 0.3):
                self.threads.run()
            elif at == len(data):
                source.delivered.callback(None)
                self.work()
            else:
                room = vessel.room()
                self.assertGreater(len(room), SLACK)
                size = min(random.randint(1, len(room)), len(data) - at)
                room[:size] = data[at : at + size]
                vessel.filled(size)
                at += size
        self.successResultOf(taking)
        self.assertTrue(self.path.read_bytes() == bytes(offset) + data)
        opened.close()
        self.assert_closed()

    def test_late(self) -> None:
        """Pieces that come although the source is paused are not lost."""
        source = Upload(DATA + DATA, [300_000])
        taking = self.begin(source)
        while not source.delivered.called:
            source.give()
        self.work()
        self.successResultOf(taking)
        self.assertTrue(self.path.read_bytes() == DATA + DATA)

    def test_whole_pages(self) -> None:
        """From an odd place on, all writes but the first and the last are of whole pages."""
        written: list[tuple[int, int]] = []
        threads = self.threads

        def noting(function: Callable[..., object], *args: object) -> Deferred[object]:
            if len(args) == 3 and isinstance(args[1], memoryview) and isinstance(args[2], int):
                written.append((args[2], args[2] + len(args[1])))
            return threads(function, *args)

        self.threads = noting  # type: ignore[assignment]  # it notes what it runs
        source = Upload(DATA + DATA, [100_000])
        taking = self.begin(source, 777)
        self.threads = threads
        while not taking.called:
            if source.paused or source.delivered.called:
                threads.run()
            else:
                source.give()
        self.successResultOf(taking)
        self.assertEqual(written[0][0], 777)
        self.assertEqual([at % 4096 for _, at in written[:-1]], [0] * (len(written) - 1))
        self.assertEqual(written[-1][1], 777 + 2 * len(DATA))
        self.assert_closed()

    def test_cancelled_under_a_thread(self) -> None:
        """A cancelled upload closes its file only when no thread writes to it any more."""
        source = Upload(DATA, [2 * PIECE])
        taking = self.begin(source)
        source.give()
        taking.cancel()
        self.failureResultOf(taking)
        self.assertEqual(len(self.threads.waiting), 1)
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.before + 1)
        self.assert_closed()

    def test_broken_off(self) -> None:
        """A source that ends early is the failure of the upload."""
        source = Upload(DATA, [2 * PIECE])
        taking = self.begin(source)
        source.give()
        source.delivered.errback(errors.BadRequest("gone"))
        self.failureResultOf(taking, errors.BadRequest)
        self.assert_closed()

    def test_full(self) -> None:
        """A disk that takes no more ends the upload with one clear error, and the rest is not wanted."""
        full = os.open("/dev/full", os.O_WRONLY)
        opened = OpenFile(self.threads, full, 0)
        source = Upload(DATA, [PIECE // 2])
        taking = Deferred.fromCoroutine(FileSink(opened, 0, len(DATA)).take(source, Clock()))
        while self.threads.waiting or not taking.called:
            self.threads.run() if self.threads.waiting else source.give()
        error = self.failureResultOf(taking, errors.UpstreamFailed).value
        self.assertEqual(
            (error.reason, error.text), ("space", "The image cannot be used: No space left on device")
        )
        self.assertTrue(source.stopped)
        opened.close()
        self.assert_closed()


class SourceTests(FileCase):
    """Read-ahead."""

    def setUp(self) -> None:
        super().setUp()
        self.path.write_bytes(DATA)
        self.got = bytearray()
        self.clock = Clock()

    def work(self) -> None:
        while self.threads.waiting or self.clock.getDelayedCalls():
            self.clock.advance(0)
            super().work()

    def source(self, start: int, stop: int) -> FileSource:
        return FileSource(self.open(), start, stop, self.clock)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.integers(0, 1 << 32))
    def test_range(self, one: int, other: int, seed: int) -> None:
        """Any range comes whole and in order, however sink and threads take turns."""
        random = Random(seed)
        start, stop = sorted((one, other))
        self.got.clear()
        source = self.source(start, stop)

        def take(piece: bytes) -> None:
            self.got.extend(piece)
            if random.random() < 0.3:
                source.pauseProducing()

        delivered = source.deliver(take)
        while not delivered.called:
            if self.threads.waiting and random.random() < 0.5:
                self.threads.run()
            elif random.random() < 0.5:
                self.clock.advance(0)
            else:
                source.resumeProducing()
        self.successResultOf(delivered)
        self.assertTrue(self.got == DATA[start:stop])
        self.assert_closed()

    def test_bounded(self) -> None:
        """A sink that takes nothing has at most two pieces read for it."""
        source = self.source(0, len(DATA))
        delivered = source.deliver(self.got.extend)
        source.pauseProducing()
        calls = 0
        while self.threads.waiting:
            self.threads.run()
            calls += 1
        self.assertEqual((calls, len(self.got)), (2, 0))
        source.resumeProducing()
        # The other one in another turn.
        self.assertEqual(len(self.got), PIECE)
        self.clock.advance(0)
        self.assertEqual(len(self.got), BOUND)
        delivered.cancel()
        self.failureResultOf(delivered)
        self.assert_closed()

    def test_stopped_within_a_piece(self) -> None:
        """A sink that has enough gets nothing more, and the file is closed under no thread."""
        source = self.source(0, len(DATA))

        def take(piece: bytes) -> None:
            self.got.extend(piece)
            source.stopProducing()

        source.deliver(take)
        self.threads.run()
        self.assertLess(len(self.got), PIECE)
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.before + 1)
        got = len(self.got)
        self.assert_closed()
        self.assertEqual(len(self.got), got)

    def test_shorter(self) -> None:
        """A file that ends early gives what there is, and then a failure instead of an end."""
        source = self.source(0, len(DATA))
        os.truncate(self.path, PIECE + 100)
        delivered = source.deliver(self.got.extend)
        self.work()
        error = self.failureResultOf(delivered, errors.UpstreamFailed).value
        self.assertEqual(error.reason, "file")
        self.assertTrue(self.got == DATA[: PIECE + 100])
        self.assert_closed()
