from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.asciicast import MAX_LINE, MAX_PIECE, AsciicastReader, AsciicastWriter, Event, Header
from tests.wire.rfb_peers import cut

HEADER = b'{"version": 2, "width": 80, "height": 24}\n'


def write(pieces: list[tuple[float, bytes]]) -> bytes:
    writer = AsciicastWriter(1_800_000_000)
    lines = [line for seconds, data in pieces for line in writer.write(seconds, data)]
    return b"".join([writer.begin(), *lines, *writer.end()])


class WriterTests(SynchronousTestCase):
    """Writing."""

    def test_lines(self) -> None:
        """The format is that of asciinema: an object, then an array for each output."""
        first, second, rest = write([(1.5, b"a\r\n\x1b[0m")]).split(b"\n")
        self.assertEqual(
            json.loads(first), {"version": 2, "width": 80, "height": 24, "timestamp": 1_800_000_000}
        )
        self.assertEqual(second, b'[1.5, "o", "a\\r\\n\\u001b[0m"]')
        self.assertEqual(rest, b"")

    def test_halves(self) -> None:
        """A character that comes in pieces is one; half of one at the end is replaced."""
        [event, last] = AsciicastReader().receive(write([(1, b"\xe2\x82"), (2, b"\xac"), (3, b"\xe2")]))
        self.assertEqual((event, last), (Event(2, "o", "€"), Event(3, "o", "\ufffd")))

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.tuples(st.floats(0, 1e6), st.binary(max_size=30)), max_size=8),
        st.lists(st.integers(1, 9)),
    )
    def test_read_back(self, pieces: list[tuple[float, bytes]], sizes: list[int]) -> None:
        """Any bytes become the text that they are, however they came; nothing else than ASCII is written."""
        data = write(pieces)
        self.assertTrue(data.isascii())
        self.assertFalse(set(data) & set(range(32)) - {10})
        reader = AsciicastReader()
        events: list[Event] = []
        for piece in cut(data, sizes):
            events += reader.receive(piece)
        self.assertTrue(reader.whole)
        self.assertEqual(reader.header, Header(80, 24, 1_800_000_000))
        whole = b"".join(data for _, data in pieces)
        self.assertEqual("".join(event.text for event in events), whole.decode("utf-8", "replace"))
        times = [event.seconds for event in events]
        self.assertEqual(times, sorted(times))
        self.assertEqual({event.code for event in events} - {"o"}, set())

    def test_long(self) -> None:
        """However much comes at once, no line is longer than can be read."""
        data = b"\0" * (3 * MAX_PIECE + 1)
        written = write([(1e6, data)])
        self.assertLess(max(map(len, written.split(b"\n"))), MAX_LINE)
        events = AsciicastReader().receive(written)
        self.assertEqual("".join(event.text for event in events), data.decode())


class ReaderTests(SynchronousTestCase):
    """Reading."""

    def test_others(self) -> None:
        """What other programs write is read, too."""
        reader = AsciicastReader()
        more = b'{"version":2,"width":120,"height":50,"env":{"TERM":"xterm"},"title":"x"}\n'
        self.assertEqual(
            reader.receive(more + '[0, "o", "€"]\n[0.5, "r", "80x24"]\n'.encode()),
            [Event(0, "o", "€"), Event(0.5, "r", "80x24")],
        )
        self.assertEqual(reader.header, Header(120, 50))

    def test_broken_off(self) -> None:
        """Of a recording that was broken off all but the last line is read."""
        reader = AsciicastReader()
        self.assertEqual(reader.receive(HEADER + b'[0, "o", "a"]\n[1, "o'), [Event(0, "o", "a")])
        self.assertFalse(reader.whole)

    def test_refused(self) -> None:
        """What is no such file is refused."""
        for data in (
            b"\n",
            b"[]\n",
            b'{"version": 1, "width": 80, "height": 24}\n',
            b'{"version": true, "width": 80, "height": 24}\n',
            b'{"version": 2, "width": 80}\n',
            b'{"version": 2, "width": 0, "height": 24}\n',
            b'{"version": 2, "width": 80, "height": 1e2}\n',
            b'{"version": 2, "width": 80, "height": 65536}\n',
            b'{"version": 2, "width": 80, "height": 24, "timestamp": -1}\n',
            HEADER + b"{}\n",
            HEADER + b"\n",
            HEADER + b'[1, "o"]\n',
            HEADER + b'[1, "o", "a", 1]\n',
            HEADER + b'["1", "o", "a"]\n',
            HEADER + b'[true, "o", "a"]\n',
            HEADER + b'[-1, "o", "a"]\n',
            HEADER + b'[NaN, "o", "a"]\n',
            HEADER + b'[1e999, "o", "a"]\n',
            HEADER + b'[1, "x", "a"]\n',
            HEADER + b'[1, "oi", "a"]\n',
            HEADER + b'[1, "o", []]\n',
            HEADER + b'[1, "o", "\\ud800"]\n',
            HEADER + b'[1, "o", "\xff"]\n',
            HEADER + b'[2, "o", "a"]\n[1, "o", "a"]\n',
            b" " * MAX_LINE,
            HEADER + b'[1, "o", "' + b"a" * MAX_LINE,
        ):
            with self.assertRaises(ValueError, msg=data[-60:]):
                AsciicastReader().receive(data)

    @settings(max_examples=300, deadline=None)
    @given(st.one_of(st.binary(max_size=80), st.text('[]{},"o1.\\ue ', max_size=40).map(str.encode)))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes is read, or refused with a ValueError."""
        for begin in (b"", HEADER):
            try:
                AsciicastReader().receive(begin + data + b"\n")
            except ValueError:
                pass
