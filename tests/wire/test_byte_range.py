"""Byte ranges mean one thing or are refused, and no byte is counted twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire.byte_range import (
    ContentRange,
    Range,
    RangeSet,
    parse_content_range,
    parse_content_range_answer,
    parse_range,
    parse_unsatisfied_range,
)

NUMBERS = st.integers(0, 2**64)
BAD_RANGES = (
    "", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=2-1", "bytes=0-1,3-4", "bytes=0-1,", "Bytes=0-1",
    "bytes= 0-1", "bytes=0 -1", "bytes=0-1 ", "bytes=0-1\n", "bytes=-1-2", "bytes=+1-2", "bytes=1_0-20",
    "bytes=\u0660-\u0661", "bytes=\uff11-", "bits=0-1", "bytes=" + "1" * 21 + "-", "bytes=0x1-2",
)  # fmt: skip
BAD_CONTENT_RANGES = (
    "", "bytes", "bytes 0-1", "bytes 0-1/", "bytes */*", "bytes */10", "bytes 2-1/10", "bytes 0-10/10",
    "bytes=0-1/2", "bytes  0-1/2", "bytes 0-1/2 ", "bytes 0-1/2\n", "Bytes 0-1/2", "bytes -1-2/3",
    "bytes 0-\u0661/2", "bytes 0-1/" + "1" * 21, "bytes 0-1/2, bytes 0-1/2",
)  # fmt: skip


class RangeTests(SynchronousTestCase):
    """The ``Range`` of a request."""

    def test_forms(self) -> None:
        """All three forms of one range are understood, and written back as they came."""
        for text, expected in (
            ("bytes=0-99", Range(0, 99)),
            ("bytes=5-", Range(5)),
            ("bytes=-7", Range(None, None, 7)),
        ):
            self.assertEqual(parse_range(text), expected)
            self.assertEqual(str(expected), text)

    def test_resolved(self) -> None:
        """A range becomes the half-open interval it means."""
        for text, expected in (
            ("bytes=0-0", (0, 1)),
            ("bytes=10-99", (10, 100)),
            ("bytes=99-", (99, 100)),
            ("bytes=-1", (99, 100)),
            ("bytes=-500", (0, 100)),
        ):
            self.assertEqual(parse_range(text).resolve(100), expected)

    def test_outside(self) -> None:
        """A range that is not wholly inside is refused, and the answer says what there is."""
        for text in ("bytes=0-100", "bytes=100-", "bytes=200-300", "bytes=-0"):
            error = self.assertRaises(errors.RangeNotSatisfiable, parse_range(text).resolve, 100)
            self.assertEqual(list(error.headers), [(b"content-range", b"bytes */100")])

    def test_nothing_there(self) -> None:
        """No range fits an empty image."""
        for text in ("bytes=0-", "bytes=0-0", "bytes=-1"):
            self.assertRaises(errors.RangeNotSatisfiable, parse_range(text).resolve, 0)

    def test_refused(self) -> None:
        """Several ranges, other units, blanks, foreign digits and long numbers are refused."""
        for text in BAD_RANGES:
            self.assertRaises(errors.RangeNotSatisfiable, parse_range, text)

    @settings(max_examples=200, deadline=None)
    @given(first=NUMBERS, length=st.integers(1, 2**40), size=NUMBERS)
    def test_inside_or_refused(self, first: int, length: int, size: int) -> None:
        """Whatever is asked, the interval is inside of the image, or there is none."""
        wanted = parse_range(f"bytes={first}-{first + length - 1}")
        try:
            start, stop = wanted.resolve(size)
        except errors.RangeNotSatisfiable:
            self.assertGreater(first + length, size)
        else:
            self.assertEqual((start, stop), (first, first + length))
            self.assertLessEqual(stop, size)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=30).map(lambda tail: "bytes=" + tail))
    def test_any_text(self, text: str) -> None:
        """Any text is a range that reads back the same, or is refused as a range."""
        try:
            found = parse_range(text)
        except errors.RangeNotSatisfiable:
            return
        self.assertEqual(parse_range(str(found)), found)


class ContentRangeTests(SynchronousTestCase):
    """The ``Content-Range`` of a message."""

    def test_forms(self) -> None:
        """Last byte and total may be unknown; what is read is written back."""
        for text, expected in (
            ("bytes 0-9/10", ContentRange(0, 9, 10)),
            ("bytes 5-9/*", ContentRange(5, 9, None)),
            ("bytes 5-*/5", ContentRange(5, None, 5)),
            ("bytes 5-*/*", ContentRange(5, None, None)),
            (f"bytes 0-*/{2**64}", ContentRange(0, None, 2**64)),
        ):
            self.assertEqual(parse_content_range(text), expected)
            self.assertEqual(str(expected), text)

    def test_refused(self) -> None:
        """A reversed, impossible or oddly written range is the client's fault, never ignored."""
        for text in BAD_CONTENT_RANGES:
            self.assertRaises(errors.BadRequest, parse_content_range, text)

    def test_answer(self) -> None:
        """An upstream's answer must say which its last byte is; else the upstream is at fault."""
        self.assertEqual(parse_content_range_answer("bytes 1-2/3"), ContentRange(1, 2, 3))
        self.assertEqual(parse_content_range_answer("bytes 1-2/*"), ContentRange(1, 2, None))
        for text in (*BAD_CONTENT_RANGES, "bytes 1-*/3", "bytes 1-*/*"):
            self.assertRaises(errors.UpstreamFailed, parse_content_range_answer, text)

    def test_unsatisfied(self) -> None:
        """The size is read from a 416 answer, and nothing else is taken for it."""
        self.assertEqual(parse_unsatisfied_range("bytes */42"), 42)
        for text in ("bytes */*", "bytes 0-1/2", "bytes */", "bytes */\u0661", "bytes */1\n"):
            self.assertRaises(errors.UpstreamFailed, parse_unsatisfied_range, text)


class RangeSetTests(SynchronousTestCase):
    """The union of what was transferred."""

    def test_overlap_counts_once(self) -> None:
        """Repeated, touching and overlapping pieces count each byte once, in any order."""
        ranges = RangeSet()
        for start, stop in ((0, 100), (200, 300), (100, 120), (80, 200), (0, 300), (5, 5), (7, 6)):
            ranges.add(start, stop)
        self.assertEqual((ranges.total, list(ranges)), (300, [(0, 300)]))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=40))
    def test_like_a_set(self, pieces: list[tuple[int, int]]) -> None:
        """It equals a set of byte positions, and its intervals are apart and in order."""
        ranges, model = RangeSet(), set[int]()
        for start, stop in pieces:
            ranges.add(start, stop)
            model.update(range(start, stop))
        self.assertEqual(ranges.total, len(model))
        self.assertEqual({n for start, stop in ranges for n in range(start, stop)}, model)
        edges = [edge for pair in ranges for edge in pair]
        self.assertEqual(edges, sorted(set(edges)))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=60))
    def test_never_counts_too_much(self, pieces: list[tuple[int, int]]) -> None:
        """With too many pieces some are forgotten: the count is too small, never too large."""
        ranges, model = RangeSet(limit=4), set[int]()
        for start, stop in pieces:
            ranges.add(start, stop)
            model.update(range(start, stop))
        self.assertLessEqual(len(ranges), 4)
        self.assertLessEqual(ranges.total, len(model))
        self.assertLessEqual({n for start, stop in ranges for n in range(start, stop)}, model)

    def test_the_smallest_is_forgotten(self) -> None:
        """What is forgotten is the least of all."""
        ranges = RangeSet(limit=2)
        for start, stop in ((0, 10), (20, 21), (30, 40)):
            ranges.add(start, stop)
        self.assertEqual(list(ranges), [(0, 10), (30, 40)])
        self.assertEqual(ranges.total, 20)

    def test_bounded(self) -> None:
        """A writer of every other block costs bounded memory and no more than moderate time."""
        ranges = RangeSet()
        for block in range(0, 140_000, 2):
            ranges.add(block, block + 1)
        self.assertLessEqual(len(ranges), 65_536)
        self.assertGreater(ranges.total, 60_000)
