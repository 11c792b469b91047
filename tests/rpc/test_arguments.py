"""Types of arguments: what is taken, what is refused, and how much room each of them has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc import arguments
from gateway.rpc.arguments import (
    HARD_CAP,
    AmpList,
    Argument,
    Big,
    Boolean,
    DateTime,
    Float,
    Integer,
    ListOf,
    Unicode,
)
from gateway.wire.amp_box import pack

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 89, UTC)


class StrictTests(SynchronousTestCase):
    def refused(self, argument: Argument, *values: bytes) -> None:
        for value in values:
            with self.assertRaises(ValueError, msg=repr(value)) as caught:
                argument.fromString(value)
            self.assertNotIn(repr(value)[2:-1] or "\0", str(caught.exception))

    def test_integer(self) -> None:
        """Digits of ASCII, no blanks, no underscores, no other scripts, and only between the bounds."""
        self.refused(
            Integer(), b"", b" 1", b"1 ", b"1_0", b"+1", b"0x1", "١".encode(), b"1" * 21, b"1.0", b"True"
        )
        self.refused(Integer(least=0, greatest=10), b"-1", b"11")
        self.assertEqual(
            [Integer().fromString(it) for it in (b"-9", b"18446744073709551615")], [-9, 2**64 - 1]
        )

    def test_float(self) -> None:
        """A finite number; ``nan``, ``inf`` and what becomes infinite are none."""
        self.refused(Float(), b"nan", b"inf", b"-Infinity", b"1e999", b"1_0.5", b" 1.0", b"", b".5", b"0x1p3")
        self.refused(Float(least=0.0), b"-0.5")
        for value in (0.1, -2.5e-7, 1e22, 3):
            self.assertEqual(Float().fromString(Float().toString(value)), value)
        with self.assertRaises(ValueError):
            Float().toString(float("nan"))

    def test_boolean(self) -> None:
        """``True`` and ``False``, and nothing that looks like them."""
        self.refused(Boolean(), b"true", b"1", b"", b"False ")
        self.assertEqual(
            [Boolean().fromString(Boolean().toString(it)) for it in (True, False)], [True, False]
        )

    def test_time(self) -> None:
        """AMP's 32 characters, read by Twisted as we mean them, and read in UTC whatever the zone."""
        self.refused(
            DateTime(),
            b"",
            b"2026-03-04T05:06:07.000000Z",
            b"2026-13-04T05:06:07.000000+00:00",
            b"0001-01-01T00:00:00.000000+23:59",
            "２026-03-04T05:06:07.000000+00:00".encode(),
        )
        self.assertEqual(amp.DateTime().fromString(DateTime().toString(MOMENT)), MOMENT)
        self.assertEqual(DateTime().fromString(amp.DateTime().toString(MOMENT)), MOMENT)
        east = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
        self.assertEqual(DateTime().fromString(amp.DateTime().toString(east)).isoformat(), MOMENT.isoformat())
        early = datetime(33, 1, 1, tzinfo=UTC)
        self.assertEqual(amp.DateTime().fromString(DateTime().toString(early)), early)
        with self.assertRaises(ValueError):
            DateTime().toString(datetime(2026, 1, 1))

    def test_unicode(self) -> None:
        """UTF-8 and nothing else comes in; what goes out is always UTF-8."""
        self.refused(Unicode(), b"\xff", b"\xed\xa0\x80")
        self.assertEqual(Unicode().toString("ä"), "ä".encode())
        self.assertEqual(Unicode().fromString(Unicode().toString("vm\udcff")), "vm\ufffd")

    def test_list(self) -> None:
        """Elements as Twisted has them; too many, a cut one, or a bad one is refused."""
        for values in ([], [1, 2, 3]):
            self.assertEqual(ListOf(Integer()).toString(values), amp.ListOf(amp.Integer()).toString(values))
            self.assertEqual(ListOf(Integer()).fromString(ListOf(Integer()).toString(values)), values)
        self.refused(ListOf(Integer(), longest=2), b"\0\x011\0\x012\0\x013", b"\0\x05abc", b"\0", b"\0\x01x")

    def test_records(self) -> None:
        """Records as Twisted has them; half a record and a missing member are refused."""
        ours = AmpList(a=Integer(), b=Unicode(optional=True))
        theirs = amp.AmpList([(b"a", amp.Integer()), (b"b", amp.Unicode(optional=True))])
        records: list[dict[str, object]] = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
        self.assertEqual(ours.toString(records), theirs.toStringProto(records, None))
        self.assertEqual(ours.fromString(ours.toString(records)), records)
        self.refused(
            ours, ours.toString(records)[:-1], ours.toString(records)[:-5], pack({b"b": b"x"}), b"\0"
        )

    def test_page(self) -> None:
        """A page has as many records as a value can hold, and at most as many as were asked for."""
        ours = AmpList(a=Unicode())
        records = [{"a": "x" * 1000}] * 200
        count = ours.fit(records)
        self.assertLess(len(ours.toString(records[:count])), 65536)
        self.assertRaises(errors.TooLarge, ours.toString, records[: count + 1])
        self.assertEqual([ours.fit(records, 7), ours.fit([]), ours.fit(records[:3])], [7, 0, 3])

    def test_kept(self) -> None:
        """What records are as bytes is kept for so many of them, and not for long ones."""
        ours = AmpList(a=Unicode(), n=Integer())
        for _ in range(2):
            for number in range(2 * ours.KEPT + 1):
                (record,) = ours.fromString(ours.toString([{"a": "x", "n": number}]))
                self.assertEqual(record, {"a": "x", "n": number})
        self.assertLessEqual(len(ours._kept), ours.KEPT)
        before = len(ours._kept)
        self.assertEqual(len(ours.toString([{"a": "x" * ours.SHORT, "n": 1}])), ours.SHORT + 13)
        self.assertEqual(len(ours._kept), before)
        lists = AmpList(a=ListOf(Integer()))
        self.assertEqual(lists.fromString(lists.toString([{"a": [1, 2]}])), [{"a": [1, 2]}])

    def test_length(self) -> None:
        """A value longer than its type permits is refused with the limit."""
        with self.assertRaises(errors.TooLarge) as caught:
            Unicode(most=10).read(b"a", {b"a": bytes(11)})
        self.assertEqual(caught.exception.limit, 10)

    def test_no_dangerous_types(self) -> None:
        """There are no paths and no descriptors among the types."""
        for name in ("Path", "Descriptor", "Decimal"):
            self.assertFalse(hasattr(arguments, name))


class BigTests(SynchronousTestCase):
    def write(self, big: Big, value: str | bytes) -> dict[bytes, bytes]:
        box: dict[bytes, bytes] = {}
        big.write(b"xml", value, box)
        return box

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 300_000), st.booleans())
    def test_there_and_back(self, size: int, text: bool) -> None:
        """Any size comes back; the parts are numbered, and each but the last is full."""
        big = Big(text=text)
        value = "x" * size if text else bytes(size)
        box = self.write(big, value)
        self.assertEqual(sorted(box)[0], b"xml")
        self.assertEqual(len(box), max(1, -(-size // 65535)))
        self.assertEqual(big.read(b"xml", dict(box)), value)
        needed, pairs = big.room(b"xml")
        self.assertLessEqual(len(pack(box)) - 2, needed)
        self.assertLessEqual(len(box), pairs)

    def test_cap(self) -> None:
        """Exactly the cap passes both ways and has room; a byte more is refused both ways, with the limit."""
        big = Big(cap=200_000)
        box = self.write(big, "x" * 200_000)
        self.assertLessEqual(len(pack(box)) - 2, big.room(b"xml")[0])
        self.assertEqual(len(big.read(b"xml", dict(box)) or ""), 200_000)
        longer = Big().room(b"xml") and self.write(Big(), "x" * 200_001)
        for call in (lambda: self.write(big, "x" * 200_001), lambda: big.read(b"xml", longer)):
            with self.assertRaises(errors.TooLarge) as caught:
                call()
            self.assertEqual(caught.exception.limit, 200_000)

    def test_hard_cap(self) -> None:
        """No argument may be made larger than 32 MiB."""
        Big(cap=HARD_CAP)
        self.assertRaises(ValueError, Big, cap=HARD_CAP + 1)

    def test_consecutive(self) -> None:
        """A part that is missing, numbered otherwise or twice is never skipped over."""
        for odd in ({b"xml.2": b"c"}, {b"xml.1": b"b", b"xml.3": b"d"}, {b"xml.01": b"b"}, {b"xml.": b""}):
            with self.assertRaises(ValueError):
                Big().read(b"xml", {b"xml": b"a", **odd})
        with self.assertRaises(ValueError):
            Big().read(b"xml", {b"xml.1": b"b"})
        self.assertEqual(Big().read(b"xml", {b"xml": b"a", b"xml.1": b"", b"xml.2": b"c"}), "ac")

    def test_left_out(self) -> None:
        """It may be left out where it is optional, and not where it is not."""
        self.assertIsNone(Big(optional=True).read(b"xml", {}))
        self.assertRaises(ValueError, Big().read, b"xml", {})
        # Parts without a beginning are not nothing.
        self.assertRaises(ValueError, Big(optional=True).read, b"xml", {b"xml.1": b"a"})

    def test_not_utf8(self) -> None:
        """What libvirt says in no UTF-8 comes back byte for byte."""
        big = Big()
        text = big.read(b"xml", {b"xml": b"<\xff>"})
        self.assertEqual(self.write(big, text or ""), {b"xml": b"<\xff>"})
