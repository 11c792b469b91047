"""Viewers who share a screen: each sees all of it, in the pixels it likes, a bounded part at a time."""

from __future__ import annotations

from random import Random
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest
from gateway.wire.rfb import PixelFormat, ServerInit
from gateway.wire.rfb_encodings import Layout, Shelf
from gateway.wire.rfb_framebuffer import Rectangle
from gateway.wire.rfb_server import CutText, ServerMessages
from gateway.wire.rfb_viewer import UPDATE_PIXELS, ViewerEncoder, bell, cut_text
from tests.wire.rfb_peers import FORMAT, Client, rectangle, update

RAW, TIGHT, ZRLE, SIZE, EXTENDED, CURSOR, KEYS = 0, 7, 16, -223, -308, -239, -258
#: Shifts of red, green and blue, whether the first byte is the highest, the depth.
ORDERS = {
    "rgbx": (0, 8, 16, False, 24),
    "bgrx": (16, 8, 0, False, 24),
    "xrgb": (16, 8, 0, True, 24),
    "xbgr": (0, 8, 16, True, 24),
    "gxrb": (16, 0, 24, False, 24),
    "rgbx32": (0, 8, 16, False, 32),
}


def pixel_format(name: str) -> bytes:
    red, green, blue, big, depth = ORDERS[name]
    return pack(">B3xBBBBHHHBBB3x", 0, 32, depth, big, 1, 255, 255, 255, red, green, blue)


def order(name: str) -> tuple[int, int, int]:
    red, green, blue, big, _ = ORDERS[name]
    red, green, blue = (3 - it // 8 if big else it // 8 for it in (red, green, blue))
    return red, green, blue


def encodings(*kinds: int) -> bytes:
    return pack(f">BxH{len(kinds)}i", 2, len(kinds), *kinds)


def request(changes: bool = True, x: int = 0, y: int = 0, width: int = 65535, height: int = 65535) -> bytes:
    return pack(">BBHHHH", 3, changes, x, y, width, height)


class Stage:
    """A server's screen with viewers."""

    def __init__(self, width: int = 200, height: int = 150) -> None:
        self.server = ServerMessages(ServerInit(width, height, PixelFormat.parse(FORMAT), b"name"))
        self.shelf = Shelf()
        self.random = Random(4)
        self.server.request()

    def draw(self, x: int, y: int, width: int, height: int, color: bytes = b"") -> None:
        """The server draws noise, or one color."""
        raw = color * (width * height) if color else self.random.randbytes(width * height * 4)
        self.server.request()
        self.server.receive(update(rectangle(x, y, width, height, RAW, raw)))

    def join(self, name: str = "rgbx", *kinds: int) -> tuple[ViewerEncoder, Client]:
        viewer = ViewerEncoder(self.server, self.shelf)
        screen = self.server.framebuffer
        client = Client(screen.width, screen.height, order(name), ORDERS[name][-1])
        if name != "rgbx":
            viewer.receive(pixel_format(name))
        viewer.receive(encodings(*kinds))
        return viewer, client

    def see(self, viewer: ViewerEncoder, client: Client, *, whole: bool = False) -> int:
        """Ask until nothing is new; return how often there was an answer."""
        count = 0
        viewer.receive(request(not whole))
        while said := viewer.update():
            client.receive(said)
            viewer.receive(request())
            count += 1
        assert client.updates >= count
        return count

    def screen(self) -> bytes:
        """Red, green and blue of all pixels."""
        framebuffer = self.server.framebuffer
        pixels = framebuffer.get(Rectangle(0, 0, framebuffer.width, framebuffer.height))
        out = bytearray(len(pixels) // 4 * 3)
        for color in range(3):
            out[color::3] = pixels[color::4]
        return bytes(out)


class Case(SynchronousTestCase):
    def assert_sees(self, stage: Stage, client: Client) -> None:
        screen = stage.server.framebuffer
        self.assertEqual((client.width, client.height), (screen.width, screen.height))
        self.assertTrue(bytes(client.screen) == stage.screen(), "another picture")


class PictureTests(Case):
    """The pixels."""

    def test_every_layout(self) -> None:
        """All encodings show the same in every layout of pixels, noise and plain color, at odd sizes."""
        for name in ORDERS:
            for kinds in ((RAW,), (ZRLE, RAW), (TIGHT, RAW), (TIGHT, ZRLE)):
                stage = Stage(203, 151)
                stage.draw(0, 0, 203, 151, b"\x10\x20\x30\0")
                stage.draw(7, 9, 100, 70)
                viewer, client = stage.join(name, *kinds)
                stage.see(viewer, client)
                self.assert_sees(stage, client)
                stage.draw(150, 100, 53, 51)
                stage.draw(64, 64, 64, 64, b"\xff\0\0\0")
                stage.see(viewer, client)
                self.assert_sees(stage, client)
                # Tight has pixels of three bytes only for a depth of 24.
                best = TIGHT if TIGHT in kinds and name != "rgbx32" else ZRLE if ZRLE in kinds else RAW
                self.assertEqual(client.kinds, {best})

    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_any(self, data: st.DataObject) -> None:
        """Whatever is drawn in between, two viewers see the same screen in the end."""
        stage = Stage(130, 70)
        stage.draw(0, 0, 130, 70)
        one = stage.join("rgbx", TIGHT)
        two = stage.join("xrgb", ZRLE)
        for _ in range(6):
            x, y = data.draw(st.integers(0, 129)), data.draw(st.integers(0, 69))
            width, height = data.draw(st.integers(1, 130 - x)), data.draw(st.integers(1, 70 - y))
            stage.draw(x, y, width, height, data.draw(st.sampled_from([b"", b"abc\0"])))
            if data.draw(st.booleans()):
                stage.see(*one)
            if data.draw(st.booleans()):
                stage.see(*two)
        for viewer, client in (one, two):
            stage.see(viewer, client)
            self.assert_sees(stage, client)

    def test_late(self) -> None:
        """Whoever joins late gets the whole screen, and the others nothing again."""
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        early = stage.join("rgbx", ZRLE)
        stage.see(*early)
        late = stage.join("bgrx", TIGHT)
        self.assertEqual(stage.see(*late), 1)
        self.assert_sees(stage, late[1])
        self.assertEqual(stage.see(*early), 0)

    def test_waits_for_server(self) -> None:
        """Nobody is shown a screen that the server has not drawn."""
        stage = Stage()
        viewer, client = stage.join()
        self.assertEqual(stage.see(viewer, client), 0)
        self.assertTrue(viewer.wants)
        stage.draw(0, 0, 200, 150)
        self.assertEqual(stage.see(viewer, client), 1)

    def test_only_when_asked(self) -> None:
        """There is one update for each request, and none when nothing is new."""
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join()
        self.assertEqual(viewer.update(), b"")
        stage.see(viewer, client)
        stage.draw(0, 0, 10, 10)
        self.assertTrue(viewer.wants)
        self.assertNotEqual(viewer.update(), b"")
        stage.draw(0, 0, 10, 10)
        self.assertEqual(viewer.update(), b"")

    def test_whole(self) -> None:
        """What is asked for again is shown again."""
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join()
        stage.see(viewer, client)
        client.screen[:] = bytes(len(client.screen))
        self.assertEqual(stage.see(viewer, client, whole=True), 1)
        self.assert_sees(stage, client)

    def test_bounded(self) -> None:
        """One update is bounded, however large the screen is, and the rest follows."""
        for kind in (RAW, ZRLE, TIGHT):
            stage = Stage(2600, 1000)
            stage.draw(0, 0, 2600, 1000, b"abc\0")
            stage.draw(2000, 0, 100, 1000)
            viewer, client = stage.join("rgbx", kind)
            self.assertGreater(stage.see(viewer, client), 4)
            self.assertLess(client.largest, UPDATE_PIXELS + 2600 * 32)
            self.assert_sees(stage, client)

    def test_shared_work(self) -> None:
        """A rectangle is compressed once for all who like it the same way."""
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        for kind in (ZRLE, TIGHT):
            pairs = [stage.join("rgbx", kind) for _ in range(3)]
            for viewer, client in pairs:
                stage.see(viewer, client)
                self.assert_sees(stage, client)
        self.assertEqual(len(stage.shelf._kept), 2)
        stage.draw(0, 0, 1, 1)
        stage.see(*stage.join("rgbx", TIGHT))
        self.assertEqual(len(stage.shelf._kept), 1)

    def test_leaves(self) -> None:
        """Nothing is kept for who has left."""
        stage = Stage()
        for _ in range(3):
            stage.join()[0].leave()
        self.assertEqual(stage.server.framebuffer._watched, [])


class NewsTests(Case):
    """What is told beside the pixels."""

    def resized(self, *kinds: int) -> tuple[Stage, Client]:
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join("rgbx", *kinds)
        stage.see(viewer, client)
        stage.server.request()
        stage.server.receive(update(rectangle(0, 0, 100, 300, SIZE)))
        self.assertEqual(viewer.update(), b"")
        stage.draw(0, 0, 100, 300)
        stage.see(viewer, client)
        viewer.leave()
        self.assertEqual(stage.server.framebuffer._watched, [])
        return stage, client

    def test_size(self) -> None:
        """Another size is told in the way that the viewer knows, before the pixels."""
        for kind in (SIZE, EXTENDED):
            stage, client = self.resized(RAW, kind)
            self.assert_sees(stage, client)
            self.assertIn(kind, client.kinds)
        self.assertEqual(client.screens, [(0, 0, 0, 100, 300, 0)])

    def test_size_unknown(self) -> None:
        """Who does not know of sizes sees what fits."""
        stage, client = self.resized(RAW)
        self.assertEqual((client.width, client.height), (200, 150))
        for row in range(150):
            at = row * 200 * 3
            self.assertEqual(client.screen[at : at + 300], stage.screen()[row * 300 : row * 300 + 300])

    def test_layout(self) -> None:
        """Who may change the size is told so, once, when the server lets him."""
        stage = Stage()
        screen = pack(">IHHHHI", 7, 0, 0, 200, 150, 0)
        stage.server.receive(update(rectangle(0, 0, 200, 150, EXTENDED, b"\1\0\0\0" + screen)))
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join("rgbx", EXTENDED)
        self.assertEqual(stage.see(viewer, client), 2)
        self.assertEqual(client.screens, [(7, 0, 0, 200, 150, 0)])
        viewer.receive(encodings(EXTENDED, RAW))
        self.assertEqual(stage.see(viewer, client), 0)

    def test_cursor(self) -> None:
        """The shape of the pointer comes in the viewer's pixels, once, and again in other pixels."""
        stage = Stage()
        shape = b"\x01\x02\x03\0" * 4
        stage.server.receive(update(rectangle(1, 0, 2, 2, CURSOR, shape + b"\xc0\x80")))
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join("bgrx", CURSOR)
        stage.see(viewer, client)
        self.assertEqual(client.cursor, (1, 0, 2, 2, b"\x01\x02\x03" * 4, b"\xc0\x80"))
        client.cursor = None
        self.assertEqual(stage.see(viewer, client), 0)
        client.order = order("xrgb")
        viewer.receive(pixel_format("xrgb"))
        self.assertEqual(stage.see(viewer, client), 1)
        self.assertEqual(client.cursor, (1, 0, 2, 2, b"\x01\x02\x03" * 4, b"\xc0\x80"))
        self.assertEqual(stage.see(*stage.join("rgbx", RAW)), 1)

    def test_keys(self) -> None:
        """QEMU's keys are offered to who knows them, once, if the server takes them."""
        stage = Stage()
        stage.draw(0, 0, 200, 150)
        viewer, client = stage.join("rgbx", KEYS)
        stage.see(viewer, client)
        self.assertNotIn(KEYS, client.kinds)
        stage.server.receive(update(rectangle(0, 0, 200, 150, KEYS)))
        self.assertEqual(stage.see(viewer, client), 1)
        self.assertIn(KEYS, client.kinds)
        self.assertEqual(stage.see(viewer, client), 0)

    def test_others(self) -> None:
        """The bell, and the clipboard."""
        self.assertEqual(bell(), b"\2")
        self.assertEqual(cut_text(CutText(b"hi")), b"\3\0\0\0\0\0\0\2hi")

    def test_ignored(self) -> None:
        """What was never offered is ignored."""
        viewer, _ = Stage().join()
        viewer.receive(b"\x96" + bytes(9))
        viewer.receive(b"\xf8" + bytes(8))
        self.assertFalse(viewer.wants)

    def test_refused_pixels(self) -> None:
        """Pixels that nobody makes here are refused."""
        good = pixel_format("rgbx")
        for at, value in ((4, 16), (4, 8), (7, 0), (9, 31), (14, 4), (14, 8), (14, 32)):
            viewer, _ = Stage().join()
            bad = good[:at] + bytes([value]) + good[at + 1 :]
            self.assertRaises(BadRequest, viewer.receive, bad)

    def test_layouts(self) -> None:
        """Pixels of three bytes leave out the first or the last one, or there are none."""
        compact = {name: Layout.of(PixelFormat.parse(pixel_format(name)[4:])).compact for name in ORDERS}
        self.assertEqual(
            compact,
            {
                "rgbx": (0, 1, 2),
                "bgrx": (2, 1, 0),
                "xrgb": (0, 1, 2),
                "xbgr": (2, 1, 0),
                "gxrb": (1, 3, 0, 2),
                "rgbx32": (0, 1, 2, 3),
            },
        )
