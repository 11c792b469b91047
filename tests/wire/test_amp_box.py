"""Boxes of AMP: every cut, and what is no box."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.amp_box import BoxError, BoxReader, BoxTooLarge, pack, pack_list, unpack_boxes, unpack_list

KEYS = st.binary(min_size=1, max_size=30)
BOXES = st.dictionaries(KEYS, st.binary(max_size=300), min_size=1, max_size=6)


def read(reader: BoxReader, *pieces: bytes) -> list[dict[bytes, bytes]]:
    """All boxes in *pieces*."""
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (box := reader.next()) is not None:
            found.append(box)
    return found


def pair(key: bytes, value: bytes) -> bytes:
    return len(key).to_bytes(2, "big") + key + len(value).to_bytes(2, "big") + value


class PackTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(BOXES)
    def test_like_twisted(self, box: dict[bytes, bytes]) -> None:
        """A box is packed to the very bytes that Twisted's own makes of it, and read as that reads it."""
        self.assertEqual(pack(box), amp.Box(box).serialize())
        self.assertEqual(amp.parseString(pack(box)), [box])

    def test_impossible(self) -> None:
        """Keys of no bytes or 256, values of 65,536 and boxes of nothing are refused."""
        for box in ({b"": b""}, {b"k" * 256: b""}, {b"k": bytes(65536)}, {}):
            with self.assertRaises(ValueError):
                pack(box)
        self.assertEqual(read(BoxReader((70000, 9)), pack({b"k" * 255: bytes(65535)}))[0][b"k" * 255][-1], 0)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.binary(max_size=50), max_size=9))
    def test_list(self, values: list[bytes]) -> None:
        """A list comes back; with its end cut off, or one element too many, it is refused."""
        data = pack_list(values)
        self.assertEqual(unpack_list(data, len(values)), values)
        if values:
            with self.assertRaises(ValueError):
                unpack_list(data[:-1], 100)
            with self.assertRaises(ValueError):
                unpack_list(data, len(values) - 1)


class RecordTests(SynchronousTestCase):
    MEMBERS: ClassVar = {b"a": ("first", int), b"b": ("second", bytes)}

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 99), max_size=5), st.binary(max_size=300))
    def test_members(self, numbers: list[int], value: bytes) -> None:
        """Of every box what is known of it is made a value, under its name; the rest is left alone."""
        data = b"".join(pack({b"a": b"%d" % it, b"b": value, b"other": value}) for it in numbers)
        self.assertEqual(unpack_boxes(data, self.MEMBERS), [{"first": it, "second": value} for it in numbers])

    def test_no_records(self) -> None:
        """Boxes cut off anywhere, a key twice, and a value that is no good are refused."""
        whole = pack({b"a": b"1", b"b": b"xy"})
        for cut in range(1, len(whole)):
            self.assertRaises(ValueError, unpack_boxes, whole + whole[:cut], self.MEMBERS)
        self.assertRaises(ValueError, unpack_boxes, pair(b"a", b"1") * 2 + b"\0\0", self.MEMBERS)
        self.assertRaises(ValueError, unpack_boxes, pack({b"a": b"x"}), self.MEMBERS)


class ReaderTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(st.lists(BOXES, min_size=1, max_size=4), st.lists(st.integers(0, 3000), max_size=12))
    def test_every_cut(self, boxes: list[dict[bytes, bytes]], cuts: list[int]) -> None:
        """However the bytes are cut, the same boxes are found, and nothing is left."""
        data = b"".join(map(pack, boxes))
        edges = sorted({min(it, len(data)) for it in cuts} | {0, len(data)})
        reader = BoxReader((10**6, 100))
        pieces = [data[a:b] for a, b in pairwise(edges)]
        self.assertEqual(read(reader, *pieces), boxes)
        self.assertEqual(reader.held, 2)

    def test_single_bytes(self) -> None:
        """Byte after byte is as good, and each box tells its size."""
        data = pack({b"a": b"1", b"b": bytes(500)})
        reader = BoxReader((10**6, 100))
        self.assertEqual(len(read(reader, *(data[i : i + 1] for i in range(len(data))))), 1)
        self.assertEqual(reader.size, len(data))

    def test_one_at_a_time(self) -> None:
        """What was not asked for waits, along with what arrives meanwhile."""
        reader = BoxReader((10**6, 100))
        reader.feed(pack({b"a": b"1"}) * 2)
        self.assertEqual(reader.next(), {b"a": b"1"})
        reader.feed(pack({b"a": b"2"}))
        self.assertEqual([reader.next(), reader.next(), reader.next()], [{b"a": b"1"}, {b"a": b"2"}, None])

    def test_exact(self) -> None:
        """A box of exactly the limit passes; a byte or a pair more does not."""
        box = pack({b"a": bytes(100), b"b": bytes(100)})
        self.assertEqual(len(read(BoxReader((len(box), 2)), box)), 1)
        for room in ((len(box) - 1, 2), (len(box), 1)):
            with self.assertRaises(BoxTooLarge) as caught:
                read(BoxReader(room), box)
            self.assertEqual(caught.exception.limit, room[0])

    def test_before_it_arrives(self) -> None:
        """What is too large is refused by its length alone: none of its bytes is waited for."""
        reader = BoxReader((1000, 10))
        with self.assertRaises(BoxTooLarge):
            read(reader, pair(b"a", bytes(500)), b"\0\1b\xff\xff")
        self.assertLess(reader.held, 600)

    def test_bounded(self) -> None:
        """However much of one box arrives, no more than its limit is kept."""
        reader = BoxReader((100_000, 50))
        most = 0
        with self.assertRaises(BoxTooLarge):
            for number in range(10_000):
                read(reader, pair(b"%d" % number, bytes(5000)))
                most = max(most, reader.held)
        self.assertLessEqual(most, 100_000)

    def test_by_command(self) -> None:
        """Once its command is known a box may have what that may have, no matter the order of its keys."""

        def of(command: bytes) -> tuple[int, int]:
            return {b"Small": (100, 4), b"Large": (1000, 4)}[command]

        for first in (True, False):
            for command, fits in ((b"Small", False), (b"Large", True)):
                pairs = [pair(b"_ask", b"7"), pair(b"_command", command), pair(b"x", bytes(300))]
                data = b"".join(pairs if first else pairs[::-1]) + b"\0\0"
                reader = BoxReader((5000, 9), of)
                if fits:
                    self.assertEqual(len(read(reader, data, data)), 2)
                    continue
                with self.assertRaises(BoxTooLarge) as caught:
                    read(reader, data)
                self.assertEqual(caught.exception.limit, 100)

    def test_no_box(self) -> None:
        """A key of 256 bytes or more, a key twice, and a box of nothing are no boxes."""
        for data in (b"\1\0", b"\xff\xff", pair(b"a", b"") * 2 + b"\0\0", b"\0\0"):
            with self.assertRaises(BoxError):
                read(BoxReader((10**6, 100)), data)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=2000), st.lists(BOXES, max_size=3), st.integers(0, 10**6), st.integers(0, 255))
    def test_fuzz(self, noise: bytes, boxes: list[dict[bytes, bytes]], at: int, value: int) -> None:
        """Bytes changed, cut and added: boxes, or :class:`BoxError`, and never more kept than allowed."""
        data = bytearray(b"".join(map(pack, boxes)) + noise)
        if data:
            data[at % len(data)] = value
        reader = BoxReader((700, 5))
        try:
            for begin in range(0, len(data), 97):
                for box in read(reader, bytes(data[begin : begin + 97])):
                    self.assertLessEqual(len(box), 5)
                self.assertLessEqual(reader.held, 700 + 97)
        except BoxError:
            pass
