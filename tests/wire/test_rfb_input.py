"""What the user in control does: what may be sent, and what lets go of it again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.rfb import PixelFormat, ServerInit
from gateway.wire.rfb_input import Hands
from gateway.wire.rfb_messages import ClientFilter, apart
from gateway.wire.rfb_server import ServerMessages
from tests.wire.rfb_peers import FORMAT
from tests.wire.test_rfb_messages import (
    AUDIO,
    EXTENDED_KEY,
    INPUT,
    KEY,
    LISTEN,
    POINTER,
    XVP,
    cut_text,
    desktop_size,
    gii,
)

PRESSED = b"\x05\x01\0\x10\0\x10"


def hands(*, keys: bool = False, screens: bytes = b"") -> Hands:
    server = ServerMessages(ServerInit(10, 10, PixelFormat.parse(FORMAT), b""))
    server.qemu_keys, server.screens = keys, screens
    return Hands(server)


class HandsTests(SynchronousTestCase):
    def test_offered(self) -> None:
        """Only what every server takes is sent, and what this one has said that it takes."""
        always = [KEY, POINTER, cut_text(b"text")]
        never = [*AUDIO, XVP, gii(4, big=True), gii(4, big=False)]
        said = b"".join([*always, *never, EXTENDED_KEY, desktop_size(1)])
        self.assertEqual(hands().act(said), b"".join(always))
        self.assertEqual(hands(keys=True).act(said), b"".join([*always, EXTENDED_KEY]))
        self.assertEqual(hands(screens=bytes(16)).act(said), b"".join([*always, desktop_size(1)]))

    def test_let_go(self) -> None:
        """What is down is let go, once; the pointer stays where it is."""
        user = hands(keys=True)
        user.act(KEY + EXTENDED_KEY + PRESSED)
        up = b"\x04\0" + KEY[2:] + b"\xff\0\0\0" + EXTENDED_KEY[4:] + POINTER
        self.assertEqual((user.let_go(), user.let_go()), (up, b""))
        user.act(KEY + b"\x04\0" + KEY[2:] + PRESSED + POINTER)
        self.assertEqual(user.let_go(), b"")

    def test_many_keys(self) -> None:
        """However many keys somebody presses, what is kept of them is bounded."""
        user = hands()
        user.act(b"".join(b"\x04\x01\0\0" + bytes([0, 0, it >> 8, it & 255]) for it in range(1000)))
        self.assertEqual(len(user.let_go()), 64 * 8)

    @given(st.lists(st.one_of(INPUT, LISTEN)), st.lists(st.integers(1, 40), max_size=20))
    @settings(max_examples=100, deadline=None)
    def test_apart(self, messages: list[bytes], sizes: list[int]) -> None:
        """What a filter passes on whole comes apart again into its messages, however it came."""
        taken = [it for it in messages if not (it[0] == 6 and it[4] & 128)]
        data, at = b"".join(messages), 0
        found: list[bytes] = []
        rules = ClientFilter(local=lambda message: None)
        for size in [*sizes, len(data) + 1]:
            found += apart(rules.receive(data[at : at + size])[0])
            at += size
        self.assertEqual(found, taken)
