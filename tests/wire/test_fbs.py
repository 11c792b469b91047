from __future__ import annotations

from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.fbs import HEADER, MAX_BLOCK, Block, FbsReader, FbsWriter, greeting
from tests.wire.rfb_peers import cut

PIECES = st.lists(st.tuples(st.floats(0, 1e7), st.binary(max_size=40)), max_size=8)


class FbsTests(SynchronousTestCase):
    """Writing and reading."""

    def test_bytes(self) -> None:
        """The format is that of rfbproxy: length, data, zeroes to a multiple of four, milliseconds."""
        writer = FbsWriter()
        self.assertEqual(writer.begin(), b"FBS 001.000\n")
        self.assertEqual(writer.write(1.2345, b"abcde"), [b"\0\0\0\5abcde\0\0\0" + pack(">I", 1234)])
        self.assertEqual(writer.write(2, b"abcd"), [b"\0\0\0\4abcd" + pack(">I", 2000)])
        self.assertEqual((writer.write(3, b""), writer.end()), ([], []))

    def test_greeting(self) -> None:
        """The stream begins as a server of RFB 3.8 without security speaks."""
        self.assertEqual(greeting(b"init"), b"RFB 003.008\n\1\1\0\0\0\0init")

    @settings(max_examples=150, deadline=None)
    @given(PIECES, st.lists(st.integers(1, 9)))
    def test_read_back(self, pieces: list[tuple[float, bytes]], sizes: list[int]) -> None:
        """What was written is read, in pieces of any size, and time never runs backwards."""
        writer, reader = FbsWriter(), FbsReader()
        blocks = [block for seconds, data in pieces for block in writer.write(seconds, data)]
        found: list[Block] = []
        for piece in cut(writer.begin() + b"".join(blocks), sizes):
            found += reader.receive(piece)
        self.assertTrue(reader.whole)
        self.assertEqual([block.data for block in found], [data for _, data in pieces if data])
        times = [block.milliseconds for block in found]
        self.assertEqual(times, sorted(times))

    def test_long(self) -> None:
        """What is longer than a block may be becomes several."""
        data = bytes(range(251)) * (MAX_BLOCK // 100)
        writer, reader = FbsWriter(), FbsReader()
        blocks = writer.write(0.5, data)
        self.assertEqual(len(blocks), 3)
        found = reader.receive(writer.begin() + b"".join(blocks))
        self.assertEqual(b"".join(block.data for block in found), data)

    def test_late(self) -> None:
        """After 49 days time stands still."""
        [block] = FbsWriter().write(1e9, b"abcd")
        self.assertEqual(block[-4:], b"\xff" * 4)

    def test_broken_off(self) -> None:
        """Of a recording that was broken off all but the last block is read."""
        writer = FbsWriter()
        data = writer.begin() + b"".join(writer.write(0, b"first") + writer.write(1, b"second"))
        for end in range(len(HEADER) + 16, len(data)):
            reader = FbsReader()
            self.assertEqual(reader.receive(data[:end]), [Block(0, b"first")])
            self.assertEqual(reader.whole, end == len(HEADER) + 16)

    def test_refused(self) -> None:
        """What is no such file is refused, before anything is held for it."""
        good = b"\0\0\0\1a\0\0\0\0\0\0\5"
        for data in (
            b"FBS 001.001\n",
            b"X",
            b"RFB 003.008\n",
            HEADER + bytes(4),
            HEADER + pack(">I", MAX_BLOCK + 1),
            HEADER + b"\xff\xff\xff\xff",
            HEADER + b"\0\0\0\1a\0\0\1\0\0\0\0",
            HEADER + good + b"\0\0\0\1a\0\0\0\0\0\0\4",
        ):
            self.assertRaises(ValueError, FbsReader().receive, data)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=80), st.integers(1, 9))
    def test_any_bytes(self, data: bytes, size: int) -> None:
        """Whatever comes is read, or refused with a ValueError."""
        reader = FbsReader()
        try:
            reader.receive(HEADER)
            for at in range(0, len(data), size):
                reader.receive(data[at : at + size])
        except ValueError:
            pass
