from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.websocket_base64 import Base64Reader
from gateway.wire.websocket_frames import INVALID_PAYLOAD, FrameError


class Base64Tests(SynchronousTestCase):
    """Messages in base64."""

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 9))
    def test_pieces(self, messages: list[bytes], size: int) -> None:
        """Each message is decoded by itself, in pieces of any size."""
        reader = Base64Reader()
        read = b""
        for message in messages:
            text = b64encode(message)
            for start in range(0, len(text), size):
                read += reader.receive(text[start : start + size], False)
            read += reader.receive(b"", True)
        self.assertEqual(read, b"".join(messages))

    def test_refused(self) -> None:
        """What is not base64 is no message: foreign characters, padding within, too few characters."""
        for pieces in (
            [b"QUJ*"],
            [b"QU JD"],
            [b"QUJD\n"],
            [b"QUI"],
            [b"QQ==QUJD"],
            [b"QQ==", b"", b"QUJD"],
            [b"QQ==Q", b"UJD"],
            [b"=QUJ"],
            [b"-_-_"],
        ):
            reader = Base64Reader()
            with self.assertRaises(FrameError) as raised:
                for piece in pieces:
                    reader.receive(piece, False)
                reader.receive(b"", True)
            self.assertEqual(raised.exception.close_code, INVALID_PAYLOAD)

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.text("QUJD=+/ -_\n!", max_size=12).map(str.encode) | st.binary(max_size=12), max_size=6),
    )
    def test_fuzz(self, pieces: list[bytes]) -> None:
        """However a message is cut, it is what a strict decoder makes of the whole of it, or no message."""
        try:
            expected: bytes | None = b64decode(b"".join(pieces), validate=True)
        except binascii.Error:
            expected = None
        reader, found = Base64Reader(), b""
        try:
            for piece in pieces:
                found += reader.receive(piece, False)
                self.assertLess(len(reader._rest), 4)
            found += reader.receive(b"", True)
        except FrameError as error:
            self.assertEqual((error.close_code, expected), (INVALID_PAYLOAD, None))
        else:
            self.assertEqual(found, expected)
