"""What leaves together, and what does not wait for that."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.batch import BATCH
from gateway.rpc.outlet import PIECE, Outlet
from tests.rpc.wire_case import Wire


class BatchTest(SynchronousTestCase):
    """Within a batch."""

    def setUp(self) -> None:
        self.clock, self.wire = Clock(), Wire()
        self.outlet = Outlet(self.wire, self.clock, 60.0, lambda: None, lambda: None)

    def test_together(self) -> None:
        """What is little leaves in one piece when the batch is over, in its order."""
        with BATCH:
            self.outlet.write(b"a")
            self.outlet.write(b"b")
            self.assertEqual(self.wire.writes, [])
        self.outlet.write(b"c")
        self.assertEqual(self.wire.writes, [b"ab", b"c"])

    def test_much(self) -> None:
        """What is much leaves at once, with all that was before it."""
        with BATCH:
            self.outlet.write(b"a")
            self.outlet.write(bytes(2 * PIECE))
            self.assertEqual(b"".join(self.wire.writes), b"a" + bytes(2 * PIECE))
            self.assertTrue(self.outlet.room())

    def test_long(self) -> None:
        """Nobody waits for a batch that takes long."""
        with BATCH:
            for data in (b"a", b"b", b"c", b"d"):
                self.outlet.write(data)
                self.clock.advance(0.0008)
            self.assertEqual(self.wire.writes, [b"abc"])
        self.assertEqual(self.wire.writes, [b"abc", b"d"])

    def test_first(self) -> None:
        """What is to be written down before anybody is told, is, also before what is much."""
        seen: list[int] = []
        with BATCH:
            BATCH.first(lambda: seen.append(len(self.wire.writes)))
            self.outlet.write(bytes(PIECE))
            self.assertEqual((seen, len(self.wire.writes)), ([0], 1))
