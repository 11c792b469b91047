"""A server's screen: whatever it draws, in pieces of every size, and what no server may send."""

from __future__ import annotations

import tracemalloc
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import UpstreamFailed
from gateway.wire.rfb import PixelFormat, ServerInit
from gateway.wire.rfb_framebuffer import Rectangle
from gateway.wire.rfb_server import Bell, CutText, ServerMessages, Updated
from tests.wire.rfb_peers import FORMAT, cut, rectangle, update

RGBX = pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
SCREEN = pack(">IHHHHI", 7, 0, 0, 60, 50, 0)


def server(width: int = 40, height: int = 30) -> ServerMessages:
    return ServerMessages(ServerInit(width, height, PixelFormat.parse(FORMAT), b"name"))


def pixels(count: int, seed: int = 0) -> bytes:
    return b"".join(bytes([it & 255, it >> 8 & 255, seed, 0]) for it in range(count))


def shown(messages: ServerMessages) -> bytes:
    screen = messages.framebuffer
    return screen.get(Rectangle(0, 0, screen.width, screen.height))


class DrawTests(SynchronousTestCase):
    """What servers draw."""

    def test_start(self) -> None:
        """The pixels of noVNC are asked for, and only encodings that are understood."""
        said = server().start()
        self.assertEqual(said[:20], b"\0\0\0\0" + RGBX)
        self.assertEqual(said[20:], pack(">BxH6i", 2, 6, 0, -308, -223, -224, -239, -258))

    @given(st.data(), st.lists(st.integers(1, 3000), max_size=30))
    @settings(max_examples=100, deadline=None)
    def test_any(self, data: st.DataObject, sizes: list[int]) -> None:
        """Rectangles are where the server puts them, however its bytes are cut."""
        messages = server()
        model = [[b"\0\0\0\0"] * 40 for _ in range(30)]
        said = b""
        for number in range(1, 6):
            x = data.draw(st.integers(0, 40))
            y = data.draw(st.integers(0, 30))
            width = data.draw(st.integers(0, 40 - x))
            height = data.draw(st.integers(0, 30 - y))
            raw = pixels(width * height, number)
            for row in range(height):
                begin = row * width * 4
                model[y + row][x : x + width] = [
                    raw[at : at + 4] for at in range(begin, begin + width * 4, 4)
                ]
            said += update(rectangle(x, y, width, height, 0, raw))
            said += data.draw(
                st.sampled_from([b"", b"\2", b"\3\0\0\0\0\0\0\2hi", b"\1\0\0\0\0\2" + bytes(12)])
            )
        events = [it for piece in cut(said, sizes) for it in messages.receive(piece)]
        self.assertIn(Updated(), events)
        self.assertEqual(shown(messages), b"".join(b"".join(row) for row in model))

    def test_large(self) -> None:
        """Rectangles larger than what is read at once come out right, narrow or wide."""
        for x, width in ((0, 1920), (0, 1919), (1, 1919)):
            messages = server(1920, 400)
            raw = pixels(width * 400)
            said = update(rectangle(x, 0, width, 400, 0, raw))
            for at in range(0, len(said), 70_000):
                messages.receive(said[at : at + 70_000])
            self.assertEqual(messages.framebuffer.get(Rectangle(x, 0, width, 400)), raw)

    def test_events(self) -> None:
        """The bell and the clipboard are told in order."""
        self.assertEqual(
            server().receive(update(count=0) * 2 + b"\2\3\0\0\0\0\0\0\4text\3\0\0\0\0\0\0\0"),
            [Bell(), CutText(b"text"), CutText(b""), Updated()],
        )

    def test_cut_events(self) -> None:
        """No event is lost, wherever the bytes are cut."""
        said = b"\2\3\0\0\0\0\0\0\4text\2"
        for first in range(len(said) + 1):
            for second in range(first, len(said) + 1):
                messages = server()
                events = [
                    *messages.receive(said[:first]),
                    *messages.receive(said[first:second]),
                    *messages.receive(said[second:]),
                ]
                self.assertEqual(events, [Bell(), CutText(b"text"), Bell()])

    def test_long_clipboard(self) -> None:
        """A clipboard that is too long is left out, and what follows it is not."""
        messages = server()
        size = (1 << 20) + 1
        events = list(messages.receive(b"\3\0\0\0" + pack(">I", size)))
        for at in range(0, size, 65536):
            events += messages.receive(bytes(min(65536, size - at)))
        self.assertEqual(events, [])
        self.assertEqual(messages.receive(b"\2"), [Bell()])

    def test_last(self) -> None:
        """An update without a count ends where it says."""
        messages = server()
        events = messages.receive(
            update(rectangle(0, 0, 1, 1, 0, b"abcd"), rectangle(0, 0, 0, 0, -224), count=65535) + b"\2"
        )
        self.assertEqual(events, [Bell(), Updated()])
        self.assertEqual(shown(messages)[:4], b"abcd")

    def test_cursor(self) -> None:
        """The shape of the pointer is kept; it may be empty."""
        messages = server()
        shape = pixels(10 * 2)
        messages.receive(update(rectangle(3, 1, 10, 2, -239, shape + b"\xff\xc0\x01\x40")))
        cursor = messages.cursor
        assert cursor is not None
        self.assertEqual((cursor.x, cursor.y, cursor.width, cursor.height), (3, 1, 10, 2))
        self.assertEqual((cursor.pixels, cursor.mask), (shape, b"\xff\xc0\x01\x40"))
        self.assertEqual(messages.receive(update(rectangle(0, 0, 0, 0, -239))), [Updated()])

    def test_requests(self) -> None:
        """The first update is of everything, the next ones of changes, one at a time."""
        messages = server()
        self.assertEqual(messages.request(), b"\3\0\0\0\0\0\0\x28\0\x1e")
        self.assertEqual(messages.request(), b"")
        self.assertFalse(messages.ready)
        messages.receive(update(rectangle(0, 0, 1, 1, 0, b"abcd")))
        self.assertTrue(messages.ready)
        self.assertEqual(messages.request(), b"\3\1\0\0\0\0\0\x28\0\x1e")

    def test_resize(self) -> None:
        """Another size is another framebuffer, of which everything is asked for."""
        for resize in (
            rectangle(0, 0, 60, 50, -223),
            rectangle(0, 0, 60, 50, -308, b"\1\0\0\0" + SCREEN),
            rectangle(1, 0, 60, 50, -308, b"\1\0\0\0" + SCREEN),
        ):
            messages = server()
            messages.request()
            messages.receive(update(rectangle(0, 0, 1, 1, 0, b"abcd")))
            messages.request()
            messages.receive(update(resize, rectangle(59, 49, 1, 1, 0, b"abcd")))
            self.assertEqual((messages.framebuffer.width, messages.framebuffer.height), (60, 50))
            self.assertEqual(messages.describe().encode(), pack(">HH", 60, 50) + RGBX + b"\0\0\0\4name")
            self.assertFalse(messages.ready)
            self.assertEqual(messages.request(), b"\3\0\0\0\0\0\0\x3c\0\x32")
            messages.receive(update(rectangle(0, 0, 60, 50, 0, pixels(3000))))
            self.assertTrue(messages.ready)

    def test_refused_size(self) -> None:
        """A wish for another size that the server does not grant changes nothing."""
        messages = server()
        messages.receive(update(rectangle(1, 3, 60, 50, -308, b"\1\0\0\0" + SCREEN)))
        self.assertEqual(messages.framebuffer.width, 40)
        self.assertEqual(messages.screens, b"")
        messages.receive(update(rectangle(0, 0, 40, 30, -308, b"\1\0\0\0" + SCREEN)))
        self.assertEqual(messages.screens, SCREEN)

    def test_keys(self) -> None:
        """Whether QEMU's keys are understood is known."""
        messages = server()
        self.assertFalse(messages.qemu_keys)
        messages.receive(update(rectangle(0, 0, 40, 30, -258)))
        self.assertTrue(messages.qemu_keys)


class HostileTests(SynchronousTestCase):
    """Servers that cheat."""

    def test_refused(self) -> None:
        """What nobody asked for, and what lies outside, ends it."""
        for said in (
            *(bytes([kind]) for kind in range(4, 256)),
            *(update(rectangle(0, 0, 1, 1, kind)) for kind in (1, 2, 5, 6, 7, 16, -1, -257, -307)),
            *(
                update(rectangle(*it, 0))
                for it in ((40, 0, 1, 1), (0, 30, 1, 1), (0, 0, 41, 1), (1, 0, 40, 1))
            ),
            *(update(rectangle(0, 0, *it, -223)) for it in ((0, 1), (1, 0), (16385, 1), (65535, 65535))),
            *(update(rectangle(0, 0, *it, -239)) for it in ((257, 1), (1, 257), (65535, 65535))),
            update(rectangle(0, 0, 65535, 65535, -308, b"\0\0\0\0")),
            b"\3\0\0\0\xff\xff\xff\xf0",
            b"\3\0\0\0\x80\0\0\0",
        ):
            messages = server()
            self.assertRaises(UpstreamFailed, messages.receive, said)
            self.assertRaises(UpstreamFailed, messages.receive, b"\2")
        for size in ((0, 1), (65535, 65535), (1, 16385)):
            self.assertRaises(UpstreamFailed, server, *size)

    def test_bounded(self) -> None:
        """Nothing is held for what is only announced, and not much of what is there."""
        for said, pieces in (
            (b"\3\0\0\0\x7f\xff\xff\xff", 100),
            (b"\1\0\0\0\xff\xff", 23),
            (update(rectangle(0, 0, 4096, 4096, 0)), 100),
            (update(rectangle(0, 0, 256, 256, -239)), 16),
        ):
            messages = server(4096, 4096)
            tracemalloc.start()
            messages.receive(said)
            for _ in range(pieces):
                messages.receive(bytes(16384))
            held, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(held, 700_000)
            self.assertLess(peak, 1_500_000)

    @given(st.binary(max_size=300), st.lists(st.integers(1, 30), max_size=20))
    @settings(max_examples=300, deadline=None)
    def test_fuzz(self, data: bytes, sizes: list[int]) -> None:
        """Whatever follows a good beginning, it fails with the one error or waits."""
        for start in (b"", update(count=3), update(rectangle(0, 0, 2, 2, 0)), update(b"\0" * 8, count=9)):
            messages = server()
            try:
                for piece in cut(start + data, sizes):
                    messages.receive(piece)
            except UpstreamFailed:
                pass
            self.assertEqual(
                len(shown(messages)), messages.framebuffer.width * messages.framebuffer.height * 4
            )
