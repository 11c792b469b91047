from __future__ import annotations

from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire.chunked import ChunkedReader

SAMPLES = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n00000A\r\n0123456789\r\n0\r\n\r\n",
    b"5;name=value\r\nhello\r\n1 \t;a\r\nb\r\n0;last\r\nX: trailer\r\nY:\r\n\r\n",
    b"3\r\na\r\n\r\n3\r\n\0\xff\n\r\n0\r\n\r\n",
]
BROKEN = [
    b"\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x5\r\n",
    b"5 \r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5_0\r\n",
    b"5\nhello\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"5;\0\r\nhello\r\n",
    b"0\r\nX: a\n\r\n",
    b"0\r\nX: a\rY: b\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"0\r\nGET / HTTP/1.1\r\n\r\n",
    b"1" + b"0" * 16 + b"\r\n",
    b"f" * 17 + b"\r\n",
    b"5;" + b"a" * 4096 + b"\r\n",
    b"5;" + b"a" * 4096,
    b"0\r\n" + b"X: " + b"a" * 4096,
    b"0\r\n" + (b"X: " + b"a" * 2000 + b"\r\n") * 9,
]


def read(pieces: list[bytes]) -> tuple[bytes, bool, bytes] | None:
    """Return the body, whether it is whole, and what follows; None when it is refused."""
    reader, body = ChunkedReader(), b""
    try:
        for piece in pieces:
            body += b"".join(reader.receive(piece))
    except errors.BadRequest:
        return None
    return body, reader.done, reader.rest


class ChunkedReaderTests(SynchronousTestCase):
    """Bodies in chunks."""

    def test_samples(self) -> None:
        """The bytes come out; extensions and trailers do not."""
        bodies = [b"", b"hello", b"hello0123456789", b"hellob", b"a\r\n\0\xff\n"]
        for data, body in zip(SAMPLES, bodies, strict=True):
            self.assertEqual(read([data + b"rest"]), (body, True, b"rest"))

    def test_broken(self) -> None:
        """What could be read in two ways, or is too long, is refused."""
        for data in BROKEN:
            self.assertIsNone(read([data]), data[:40])

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts."""
        for sample in SAMPLES + [data for data in BROKEN if len(data) < 100]:
            data = sample + b"rest\r\n"
            whole = read([data])
            for cut in range(1, len(data)):
                self.assertEqual(read([data[:cut], data[cut:]]), whole, (data, cut))
            self.assertEqual(read([bytes([byte]) for byte in data]), whole, data)

    def test_largest_size(self) -> None:
        """Sixteen digits are a size, and its bytes flow."""
        reader = ChunkedReader()
        self.assertEqual(reader.receive(b"f" * 16 + b"\r\nabc"), [b"abc"])
        self.assertFalse(reader.done)

    def test_nothing_kept(self) -> None:
        """Bytes of a chunk are handed on as they come; only a line without end is kept, and not for long."""
        reader = ChunkedReader()
        reader.receive(b"100000\r\n")
        for _ in range(16):
            self.assertEqual(reader.receive(bytes(65536)), [bytes(65536)])
            self.assertEqual(reader.rest, b"")
        self.assertEqual(reader.receive(b"\r\n5;" + b"a" * 4000), [])
        self.assertLess(len(reader.rest), 4096)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 50), st.booleans())
    def test_round_trip(self, chunks: list[bytes], step: int, extended: bool) -> None:
        """Whatever was cut into chunks comes back, in pieces of any size."""
        extension = b";x=y" if extended else b""
        data = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        data += b"0\r\n\r\nrest"
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        self.assertEqual(read(pieces), (b"".join(chunks), True, b"rest"))

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [b"3\r\nabc\r\n", b"0\r\n", b"\r\n", b"5;a\r\n", b"hello\r\n", b"X: y\r\n", b"A"]
                ),
                st.binary(max_size=4),
            ),
            max_size=8,
        )
    )
    def test_as_h11(self, pieces: list[bytes]) -> None:
        """Whatever is accepted as a whole body is the same body to h11; nothing is a bug."""
        ours = read([b"".join(pieces)])
        self.assertEqual(read(pieces), ours)
        if ours is None or not ours[1]:
            return
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(b"PUT / HTTP/1.1\r\nhost: a.invalid\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.next_event()
        connection.receive_data(b"".join(pieces))
        body = b""
        event: Any
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        self.assertIsInstance(event, h11.EndOfMessage)
        self.assertEqual((body, connection.trailing_data[0]), (ours[0], ours[2]))
