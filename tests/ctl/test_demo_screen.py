"""The picture to try a console with, as a VNC client sees it."""

from __future__ import annotations

from struct import pack
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl.demo_screen import HEIGHT, SQUARE, WIDTH, Demonstration, Viewer

ALL = pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
NEW = pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)


class Transport(StringTransport):
    """Two more of what a TCP transport has."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.disconnecting = True


class DemonstrationTests(SynchronousTestCase):
    """Sans I/O: bytes in, bytes out."""

    def setUp(self) -> None:
        self.factory = Demonstration()

    def viewer(self) -> tuple[Viewer, Any]:
        """One who has come as far as the picture."""
        viewer, transport = self.factory.buildProtocol(None), Transport()
        viewer.makeConnection(transport)
        for data in (b"RFB 003.008\n", b"\1", b"\1"):
            viewer.dataReceived(data)
        head = b"RFB 003.008\n\1\1" + bytes(4) + pack(">HH", WIDTH, HEIGHT)
        self.assertTrue(transport.value().startswith(head))
        self.assertTrue(transport.value().endswith(b"Demonstration"))
        transport.clear()
        return viewer, transport

    def rectangles(self, transport: Any) -> list[tuple[int, int, int, int]]:
        """Of one update, which has to be whole."""
        data = transport.value()
        transport.clear()
        self.assertEqual(data[:2], b"\0\0")
        found, at = [], 4
        for _ in range(int.from_bytes(data[2:4])):
            x, y, width, height = (int.from_bytes(data[at + it : at + it + 2]) for it in (0, 2, 4, 6))
            self.assertEqual(data[at + 8 : at + 12], bytes(4))
            at += 12 + width * height * 4
            found.append((x, y, width, height))
        self.assertEqual(at, len(data))
        return found

    def test_picture(self) -> None:
        """Who asks gets the whole picture, and later what is new."""
        viewer, transport = self.viewer()
        viewer.dataReceived(ALL)
        self.assertEqual(sum(w * h for _, _, w, h in self.rectangles(transport)), WIDTH * HEIGHT)
        viewer.dataReceived(NEW)
        self.assertEqual(transport.value(), b"")
        viewer.dataReceived(pack(">BBxxI", 4, 1, 0x61))
        self.assertEqual(self.rectangles(transport)[0][:1], (0,))
        viewer.dataReceived(NEW + pack(">BBHH", 5, 1, 300, 200))
        [(x, y, width, height)] = self.rectangles(transport)
        self.assertTrue(x <= 300 < x + width and y <= 200 < y + height)

    def test_everybody(self) -> None:
        """What one does, the others see; who has left is told nothing."""
        (one, first), (other, second) = self.viewer(), self.viewer()
        for viewer in (one, other):
            viewer.dataReceived(ALL)
            viewer.dataReceived(NEW)
        second.clear()
        first.clear()
        one.dataReceived(pack(">BBxxI", 4, 1, 0x62))
        self.assertEqual(self.rectangles(second)[0][1], (HEIGHT - SQUARE) // 32 * 32)
        one.dataReceived(pack(">BxxxI", 6, 5) + b"hello")
        self.assertTrue(second.value().endswith(b"HELLO"))
        other.connectionLost()
        second.clear()
        one.dataReceived(pack(">BxxxI", 6, 5) + b"hello")
        self.assertEqual(second.value(), b"")

    def test_nonsense(self) -> None:
        """Who speaks something else is hung up on."""
        viewer, transport = self.viewer()
        viewer.dataReceived(b"\xff\xff\xff\xff")
        self.assertTrue(transport.disconnecting)
